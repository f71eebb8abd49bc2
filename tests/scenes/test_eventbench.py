"""EventBench's layout, written by hand as its own code reads it, into scenes with and without videos."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.scenes import (
    check_folder,
    check_scenes,
    cut_clips,
    event_images,
    load_events,
    open_scenes,
    read_eventbench,
    write_video,
)
from egptlib.scenes._eventbench import is_eventbench
from tests.scenes.conftest import frame_number, numbered_frame, random_events


def records(events: dict) -> np.ndarray:
    """As its code makes the streams of `event_bins` (to_structured_array)."""
    made = np.empty(len(events["t"]), [("p", "u1"), ("t", "i8"), ("x", "u2"), ("y", "u2")])
    for key in made.dtype.names or ():
        made[key] = events[key]
    return made


def turns(*pairs: tuple[str, str]) -> list[dict]:
    made = [({"from": "human", "value": f"<event>\n{q}"}, {"from": "gpt", "value": a}) for q, a in pairs]
    return [turn for pair in made for turn in pair]


def write_eventbench(root: Path) -> dict:
    """A list of v2e questions on two recordings, of which one is preprocessed, and one of EB-hand's."""
    events = random_events(3000, span_us=3_000_000)
    (root / "kinetics").mkdir(parents=True)
    np.savez(root / "kinetics/a_000009_000019.npz", **events)
    edges = np.linspace(0, 3000, 9).astype(int)
    bins = np.empty(8, object)
    bins[:] = [records({key: values[a:b] for key, values in events.items()}) for a, b in pairwise(edges)]
    bins[5] = bins[5][:0]  # a silent part
    np.savez(root / "kinetics/b.npz", event_bins=bins)
    first = {"id": 1, "event_data": "kinetics/a_000009_000019.npz", "event_data_type": "v2e"}
    second = {"id": 2, "event_data": "kinetics/b.npy", "event_data_type": "v2e"}
    listed = [first | {"conversations": turns(("How does the child move?", "It crawls."), ("Where?", "On the floor."))}]
    listed += [second | {"conversations": turns(("What moves?", "A dog."))}]
    listed += [first | {"id": 3, "conversations": turns(("Which?\nA. car\nB. dog", "B"))}]
    (root / "understanding.json").write_text(json.dumps(listed))
    hand = {"event_data": "hand.npz", "conversations": turns(("Which gesture?", "A fist."))}
    (root / "gesture_recognition_EB_hand.json").write_text(json.dumps([hand]))
    np.savez(root / "hand.npz", event_data=np.stack([events[key] for key in "xytp"], axis=1))
    return events


def test_each_recording_is_a_scene_with_all_its_questions(tmp_path: Path) -> None:
    root, events = tmp_path / "EB", write_eventbench(tmp_path / "EB")
    assert is_eventbench(root)
    assert check_scenes(root) == []
    report = cut_clips(read_eventbench(root), tmp_path / "out")
    assert (report.samples, report.sequences_cut, report.set_aside) == (3, 3, ())
    assert check_folder(tmp_path / "out") == []
    assert not is_eventbench(tmp_path / "out")
    scenes = {scene.sequence: scene for scene in open_scenes(tmp_path / "out", num_frames=8, event_views=1)}
    a = scenes["understanding_kinetics_a_000009_000019"]
    assert a.questions == ("How does the child move?", "Where?", "Which?\nA. car\nB. dog")
    assert a.answers == ("It crawls.", "On the floor.", "B")
    assert (a.metadata["events"], a.metadata["frames"]) == ("simulated", "events")
    np.testing.assert_array_equal(a.event_images[0], event_images(events, 1)[0])
    assert a.frames.shape == (8, 240, 320, 3)  # 3 s: eight pictures, in equal counts
    for frame, picture in zip(a.frames, event_images(events, 8, size=(240, 320)), strict=True):
        assert np.abs(frame.astype(int) - picture).mean() < 20  # the clip is lossy
    hand = scenes["gesture_recognition_EB_hand_hand"]
    assert (hand.frames.shape[1:], hand.metadata["events"]) == ((480, 640, 3), "unknown")
    assert scenes["understanding_kinetics_b"].answers == ("A dog.",)


def test_streams_of_bins_are_joined(tmp_path: Path) -> None:
    events = write_eventbench(tmp_path / "EB")
    joined = load_events(tmp_path / "EB/kinetics/b.npz")
    left = np.r_[0:1875, 2250:3000]
    for key in "xytp":
        np.testing.assert_array_equal(joined[key], events[key][left])
    equal = np.array([records({key: values[i : i + 1000] for key, values in events.items()}) for i in (0, 1000, 2000)])
    assert equal.shape == (3, 1000)  # what np.array makes of streams of one length
    np.savez(tmp_path / "c.npz", event_bins=equal)
    np.testing.assert_array_equal(load_events(tmp_path / "c.npz")["t"], events["t"])
    holder = np.empty(2, object)
    holder[:] = [np.zeros(2, [("x", object), ("y", "u2"), ("t", "i8"), ("p", "u1")])] * 2
    np.savez(tmp_path / "d.npz", event_bins=holder)
    with pytest.raises(ValueError, match=r"d\.npz: .*records of objects"):
        load_events(tmp_path / "d.npz")


def test_videos_beside_the_recordings_are_the_frames(tmp_path: Path) -> None:
    root, _ = tmp_path / "EB", write_eventbench(tmp_path / "EB")
    (tmp_path / "videos").mkdir()
    frames = [numbered_frame(k) for k in range(12)]
    write_video(tmp_path / "videos/a_000009_000019.mp4", frames, fps=4)
    command = [
        "make-scenes",
        "--events",
        str(root),
        "--out",
        str(tmp_path / "out"),
        "--video",
        str(tmp_path / "videos"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (scene,) = open_scenes(tmp_path / "out", num_frames=12)
    assert scene.metadata["frames"] == "video"
    assert [frame_number(frame) for frame in scene.frames] == list(range(12))
    assert "2 windows set aside" in done.output  # the others have no video
    refused = CliRunner().invoke(app, [*command, "--window", "2s"])
    assert (refused.exit_code, "only --out and --video go with it" in refused.output) == (2, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_data": "../a.npz"}, r"understanding\.json: entry 1: 'event_data' is"),
        ({"conversations": []}, r"entry 1: expected an object with 'event_data' and 'conversations'"),
        ({"conversations": [{"from": "human"}]}, r"understanding\.json: entry 1: .*'conversations' \{from, value\}"),
    ],
)
def test_lists_that_are_not_as_described(tmp_path: Path, change: dict, message: str) -> None:
    write_eventbench(tmp_path)
    path = tmp_path / "understanding.json"
    entries = json.loads(path.read_text())
    entries[1] |= change
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=message):
        cut_clips(read_eventbench(tmp_path), tmp_path / "out")
    assert "entry 1: " in str(check_scenes(tmp_path)[-1])
    entries[1] = {"event_data": "missing.npz", "conversations": turns(("What?", "A."))}
    path.write_text(json.dumps(entries))
    with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
        cut_clips(read_eventbench(tmp_path), tmp_path / "out2")
