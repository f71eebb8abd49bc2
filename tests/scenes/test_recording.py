"""From a recording and a video to a folder, against masks over all events and frames that carry their number."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from egptlib.scenes import (
    Scene,
    check_folder,
    check_scenes,
    event_images,
    make_scenes,
    open_scenes,
    read_frames,
    write_video,
)
from egptlib.scenes._recording import open_frames
from egptlib.scenes.events import save_events
from tests.scenes.aedat4 import write_aedat4
from tests.scenes.conftest import frame_number, numbered_frame, random_events
from tests.scenes.events.test_aedat import EVENTS, WRITTEN

PERIOD, START = 50_000, 913_716_224  # a camera's clock counts from when it was switched on


def make_recording(folder: Path, frames: int = 40) -> tuple[Path, Path, dict]:
    """Two seconds of events on a camera's clock, and a video of the same time whose clock begins at zero."""
    events = random_events(4000, span_us=frames * PERIOD)
    events["t"] += START
    save_events(folder / "rec.npy", events)
    write_video(folder / "clip.mp4", (numbered_frame(number % 25) for number in range(frames)), fps=20)
    return folder / "rec.npy", folder / "clip.mp4", events


def test_a_recording_with_its_video_becomes_a_folder(tmp_path: Path) -> None:
    recording, video, events = make_recording(tmp_path)
    report = make_scenes(
        recording, tmp_path / "out", video=video, offset_us=START, questions=["What moves?"], keep_events=True
    )
    assert (report.samples, report.sequences_cut, report.set_aside) == (3, 1, ())
    assert check_folder(tmp_path / "out") == []
    scenes = open_scenes(tmp_path / "out", event_views=5)
    assert scenes.sequences == ["rec"]
    for number, scene in enumerate(scenes):
        start = START + number * 500_000
        inside = (events["t"] >= start) & (events["t"] < start + 1_000_000)
        part = {key: values[inside] for key, values in events.items()}
        raw = scene.events()
        assert raw is not None
        for key in "xytp":
            np.testing.assert_array_equal(raw[key], part[key])
        for got, image in zip(scene.event_images, event_images(part, 5), strict=True):
            np.testing.assert_array_equal(got, image)
        frames, _ = read_frames(tmp_path / f"out/mp4/rec/{number:06d}.mp4", 20)
        assert [frame_number(frame) for frame in frames] == [(10 * number + k) % 25 for k in range(20)]
        assert scene.questions == ("What moves?",)
        assert scene.answers is None
        assert scene.metadata["events"] == "recorded"


def test_a_folder_takes_further_recordings_and_goes_on(tmp_path: Path) -> None:
    recording, video, events = make_recording(tmp_path)
    save_events(tmp_path / "other.npy", events)
    for path, cut, skipped, samples in ((recording, 1, 0, 3), (recording, 0, 1, 3), (tmp_path / "other.npy", 1, 0, 6)):
        microseconds: Any = np.int64(1_000_000)
        report = make_scenes(path, tmp_path / "out", video=video, window_us=microseconds, offset_us=START)
        assert (report.sequences_cut, report.sequences_skipped, report.samples) == (cut, skipped, samples)
    with pytest.raises(ValueError, match="sequence rec was cut with"):
        make_scenes(recording, tmp_path / "out", video=video, offset_us=START + 1)
    for window_us in (1, 0, -5, 0.5e6):
        with pytest.raises(ValueError, match="window_us: expected"):
            make_scenes(recording, tmp_path / "new", video=video, window_us=window_us)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no such file of questions"):
        make_scenes(recording, tmp_path / "new", video=video, questions="What moves?")
    write_video(tmp_path / "b.mp4", (numbered_frame(number % 7) for number in range(40)), fps=20)
    with pytest.raises(ValueError, match="sequence rec was cut with"):
        make_scenes(recording, tmp_path / "out", video=tmp_path / "b.mp4", offset_us=START)
    save_events(tmp_path / "b/rec.npy", random_events(50))  # another recording of the same name
    with pytest.raises(ValueError, match="sequence rec was cut with"):
        make_scenes(tmp_path / "b/rec.npy", tmp_path / "out", video=video, offset_us=START)


def test_clocks_that_do_not_meet_are_named(tmp_path: Path) -> None:
    recording, video, _ = make_recording(tmp_path)
    with pytest.raises(
        ValueError, match=r"events from 913\d+ to .* frames from 0 to 1950000 us: .* offset of 913\d+ us"
    ):
        make_scenes(recording, tmp_path / "out", video=video)
    with pytest.raises(ValueError, match="shorter than one window of 5000000 us"):
        make_scenes(recording, tmp_path / "out", video=video, window_us=5_000_000)
    assert not (tmp_path / "out/EventGPT_Instruction_Subset.json").exists()
    assert (
        make_scenes(recording, tmp_path / "out", video=video, offset_us=START).samples == 3
    )  # nothing stands in the way
    with pytest.raises(ValueError, match=r"rec\.npy: holds no frames beside its events; video="):
        make_scenes(recording, tmp_path / "out2")
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such video"):
        make_scenes(recording, tmp_path / "out2", video=tmp_path / "none.mp4")


def write_m3ed(path: Path, events: dict, colour: bool) -> np.ndarray:
    """As M3ED's `rosbag2hdf5.py` writes a sequence: lzf, polarity int8, 25 frames a second, blue first."""
    times = 40_000 * np.arange(50)
    frames = np.zeros((50, 48, 64, 3), np.uint8)
    frames[..., :2], frames[..., 2] = 5 * np.arange(50)[:, None, None, None], 200  # blue and green tell the number
    kinds = {"x": "u2", "y": "u2", "t": "i8", "p": "i1"}
    with h5py.File(path, "w") as file:
        for key, kind in kinds.items():
            file.create_dataset(
                f"prophesee/left/{key}", data=events[key].astype(kind), compression="lzf", maxshape=(None,)
            )
        milliseconds = np.arange(int(events["t"][-1]) // 1000) * 1000
        file["prophesee/left/ms_map_idx"] = np.searchsorted(events["t"], milliseconds).astype("u8")
        file["prophesee/left/calib/resolution"] = np.array([1280, 720])
        file.create_dataset("ovc/ts", data=times, compression="lzf")
        file["ovc/ts_map_prophesee_left_t"] = np.searchsorted(events["t"], times).astype("u8")
        for side in ("left", "right"):
            file.create_dataset(f"ovc/{side}/data", data=frames[..., :1], compression="lzf", chunks=(1, 48, 64, 1))
        if colour:
            file.create_dataset("ovc/rgb/data", data=frames, compression="lzf", chunks=(1, 48, 64, 3))
    return frames


@pytest.mark.parametrize("colour", [True, False])
def test_a_sequence_of_m3ed_holds_both(tmp_path: Path, colour: bool) -> None:
    events = random_events(5000, span_us=2_000_000)
    frames = write_m3ed(tmp_path / "falcon_data.h5", events, colour)
    assert make_scenes(tmp_path / "falcon_data.h5", tmp_path / "out").samples == 3
    scene = open_scenes(tmp_path / "out")[1]
    shown = frames[..., ::-1] if colour else frames[..., :1]
    nearest = [int(np.abs(shown - frame.astype(int)).mean(axis=(1, 2, 3)).argmin()) for frame in scene.frames]
    assert nearest == [13 + index for index in scene.frame_indices]  # 0.5 s lies between frames 12 and 13
    assert np.abs(scene.frames.astype(int) - shown[nearest]).mean() < 6
    inside = (events["t"] >= 500_000) & (events["t"] < 1_500_000)
    part = {key: values[inside] for key, values in events.items()}
    np.testing.assert_array_equal(scene.event_images[0], event_images(part, 1)[0])


def test_a_sequence_of_mvsec_holds_both(tmp_path: Path) -> None:
    """Events are one float64 table of x, y, seconds, -1/+1; frames are grey; both clocks count from 1970."""
    events, start = random_events(5000, span_us=2_000_000), 1_504_645_177.42
    table = np.stack([events["x"], events["y"], start + events["t"] / 1e6, 2.0 * events["p"] - 1], axis=1)
    with h5py.File(tmp_path / "outdoor_day1_data.hdf5", "w") as file:
        file["davis/left/events"] = table
        file["davis/left/image_raw"] = np.stack([numbered_frame(k % 25)[..., 0] for k in range(40)])
        file["davis/left/image_raw_ts"] = start + 0.05 * np.arange(40)
        file["davis/left/image_raw_event_inds"] = np.zeros(40, np.int64)
    assert make_scenes(tmp_path / "outdoor_day1_data.hdf5", tmp_path / "out", keep_events=True).samples == 3
    scene = open_scenes(tmp_path / "out", num_frames=20)[0]
    assert [frame_number(frame) for frame in scene.frames] == list(range(20))
    inside = events["t"] < 1_000_000
    raw = scene.events()
    assert raw is not None
    np.testing.assert_array_equal(raw["p"], events["p"][inside])
    np.testing.assert_allclose(raw["t"] - raw["t"][0], events["t"][inside] - events["t"][0], atol=1)


@pytest.mark.parametrize("kind", ["grey", "grey of 16 bits", "colour"])
def test_frames_of_an_aedat4_recording(tmp_path: Path, kind: str) -> None:
    """Its frames are in OpenCV's order of colours; those of 16 bits have their upper eight taken."""
    frames = [numbered_frame(number) for number in range(20)]
    stored = [frame[..., 0] if "grey" in kind else frame.copy() for frame in frames]
    if kind == "colour":
        for frame, expected in zip(stored, frames):
            frame[..., 2], expected[..., 0] = 250, 250  # red
    if kind == "grey of 16 bits":
        stored = [256 * frame.astype(np.uint16) + 77 for frame in stored]
    path = write_aedat4(tmp_path / "rec.aedat4", random_events(2500), stored, START + PERIOD * np.arange(20))
    with closing(open_frames(path)) as source:
        np.testing.assert_array_equal(source.times, START + PERIOD * np.arange(20))
        for window in (range(0, 10), range(5, 15), range(2, 4), range(19, 20)):  # forward, and a step back
            for number, frame in zip(window, source.read(window), strict=True):
                np.testing.assert_array_equal(frame, frames[number])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"rec\.aedat4: damaged AEDAT4 file"):
        open_frames(path)


def test_a_file_of_the_makers_library_holds_both(tmp_path: Path) -> None:
    """dv-processing wrote 600 events over 22 s and four flat grey frames into one AEDAT4 file."""
    stored = {149: 5_513_447, 43: 11_063_897}  # brightness of the first two frames -> time behind 1.7e15 us
    report = make_scenes(WRITTEN, tmp_path / "out", window_us=10_000_000)
    starts = [1_700_000_000_000_000 + stored[149] + 5_000_000 * number for number in range(report.samples)]
    scenes = open_scenes(tmp_path / "out")
    assert [row["start_us"] for row in scenes.metadata()] == starts
    expected = [int(((EVENTS["t"] >= start) & (EVENTS["t"] < start + 10_000_000)).sum()) for start in starts]
    assert [row["num_events"] for row in scenes.metadata()] == expected
    seen = [round(float(frame.mean())) for frame in scenes[0].frames]
    assert np.abs(np.array(sorted(set(seen))) - [43, 149]).max() <= 2
    assert check_scenes(WRITTEN) == check_folder(tmp_path / "out") == []


def test_an_h5_without_frames_or_with_strange_ones(tmp_path: Path) -> None:
    events = random_events(100)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, values in events.items():
            file[f"events/{key}"] = values
    with pytest.raises(ValueError, match=r"a\.h5: holds no frames in a known layout"):
        make_scenes(tmp_path / "a.h5", tmp_path / "out")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["davis/left/image_raw"] = np.zeros((3, 4, 5), np.float32)
        file["davis/left/image_raw_ts"] = np.arange(3.0)
    with pytest.raises(ValueError, match=r"a\.h5: /davis/left/image_raw is float32"):
        make_scenes(tmp_path / "a.h5", tmp_path / "out")


def test_a_scene_of_arrays_in_memory() -> None:
    events = random_events(500)
    clip = np.stack([numbered_frame(number) for number in range(20)])
    scene = Scene.from_events(events, clip, ["What moves?"], event_views=5)
    for got, image in zip(scene.event_images, event_images(events, 5), strict=True):
        np.testing.assert_array_equal(got, image)
    assert [frame_number(frame) for frame in scene.frames] == [0, 2, 5, 8, 10, 13, 16, 19]
    stream = scene.events()
    assert stream is not None
    np.testing.assert_array_equal(stream["t"], events["t"])
    bare = Scene("a", "b", scene.event_images, scene.frames)
    assert len(bare.questions) == 10
    assert bare.answers is None
    records: Any = pd.DataFrame(events).to_records()
    for same in (records, pd.DataFrame(events)):  # `size` of both is no sensor's
        made = Scene.from_events(same, (frame for frame in clip), "What moves?", event_views=5)  # type: ignore[arg-type]
        for pictures in (made.event_images, event_images(same, 5)):
            assert all(map(np.array_equal, pictures, scene.event_images))
    assert made in [scene, made] and made not in [scene]
    with pytest.raises(ValueError, match="field 't' has masked values"):
        Scene.from_events(events | {"t": np.ma.masked_less(events["t"], events["t"][5])}, clip)
    for wrong in ({"event_views": 2.5}, {"num_frames": 2.5}, {"sampling": lambda total, rate: [0.5]}):
        with pytest.raises(ValueError, match=r"expected a whole number, found \d.5"):
            Scene.from_events(events, clip, **wrong)
    for frames in ([], [np.zeros((4, 4, 3))], [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]):
        with pytest.raises(ValueError, match="expected uint8"):
            Scene.from_events(events, frames, "What moves?")
    with pytest.raises(ValueError, match="cannot draw 5"):
        Scene.from_events({key: values[:3] for key, values in events.items()}, clip, event_views=5)


def test_events_in_another_order_make_the_same_pictures(tmp_path: Path) -> None:
    """The five pictures are parts of the time, and the last event of a pixel is the latest, whatever a file's order."""
    _, video, events = make_recording(tmp_path, 20)
    events["t"] = START + np.sort(np.random.default_rng(3).choice(19 * PERIOD, len(events["t"]), replace=False))
    order = np.random.default_rng(0).permutation(len(events["t"]))
    for name, rows in (("sorted", slice(None)), ("mixed", order)):
        save_events(tmp_path / f"{name}.npy", {key: values[rows] for key, values in events.items()})
        make_scenes(tmp_path / f"{name}.npy", tmp_path / "out", video=video, offset_us=START, keep_events=True)
    save_events(tmp_path / "out/event_npy/mixed/000000.npy", {key: values[order] for key, values in events.items()})
    for from_events in (False, True):
        mixed, ordered = open_scenes(tmp_path / "out", event_views=5, from_events=from_events)
        for got, expected in zip(mixed.event_images, ordered.event_images, strict=True):
            np.testing.assert_array_equal(got, expected)
    turned = Scene.from_events({k: v[order] for k, v in events.items()}, ordered.frames, event_views=5)
    for got, expected in zip(turned.event_images, ordered.event_images, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_a_notebook_runs_on_a_real_recording_with_a_made_video(tmp_path: Path, shared: Path) -> None:
    """95.9 ms of a Prophesee camera, cut by the command line, then notebook 04 in a process of its own."""
    from egptlib.reporting._notebooks import find_notebooks, plan
    from egptlib.reporting._runner import run_notebooks

    write_video(tmp_path / "clip.mp4", (numbered_frame(number) for number in range(20)), fps=200)
    command = [sys.executable, "-m", "egptlib", "make-scenes", "--events", str(shared / "samples/gen3_evt2.raw")]
    command += ["--video", str(tmp_path / "clip.mp4"), "--window", "40ms", "--offset-us", "913716224"]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 samples" in done.stdout
    scenes = open_scenes(tmp_path / "out", event_views=5)
    assert sum(row["num_events"] for row in scenes.metadata()[::2]) == 419_249  # of the first 80 ms
    (outcome,) = run_notebooks(
        plan(find_notebooks(["04"]), {"smoke": True, "dataset": str(scenes.folder)}), tmp_path / "runs"
    )
    assert outcome.state == "done", outcome
