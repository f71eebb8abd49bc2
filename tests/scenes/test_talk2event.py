"""Talk2Event's layout, written by hand as its own loader reads it, into scenes that ask for a box."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egptlib.scenes import check_folder, check_scenes, cut_clips, event_images, open_scenes, read_talk2event
from egptlib.scenes._talk2event import is_talk2event
from tests.scenes.conftest import frame_number, numbered_frame


def write_talk2event(root: Path) -> np.ndarray:
    """One sequence of two pictures, the first with two objects; returns the first picture's counts."""
    random, counts = np.random.default_rng(0), np.zeros((20, 480, 640), np.uint8)
    counts[random.integers(0, 20, 4000), random.integers(0, 30, 4000), random.integers(0, 40, 4000)] = 2
    counts[7, 29, 39] = 1
    listed: list[dict] = []
    for moment, captions in ((53, ["The red car on the left.", "A red car"]), (53, ["The bus"]), (70, ["A person"])):
        at = f"data/test/thun_02_a/{{}}/{moment:06d}"
        (root / at.format("event")).parent.mkdir(parents=True, exist_ok=True)
        (root / at.format("image")).parent.mkdir(parents=True, exist_ok=True)
        np.savez(root / f"{at.format('event')}.npz", events=counts)
        Image.fromarray(numbered_frame(moment // 10, 480, 640)).save(root / f"{at.format('image')}.png")
        item = {
            "id": f"thun_02_a_{len(listed)}_{moment}",
            "class": "car",
            "bbox": {"x": 64, "y": 48, "w": 128, "h": 480},
        }
        item |= {"event_path": f"{at.format('event')}.npz", "image_path": f"{at.format('image')}.jpg"}
        attributes = {"appearance": ["red"], "status": [], "relation_to_viewer": [], "relation_to_others": []}
        listed.append(item | {"captions": captions, "attributes": [attributes] * len(captions), "others": []})
        listed[-1]["number of other objects"] = 0
    (root / "meta_data_v10/test").mkdir(parents=True)
    (root / "meta_data_v10/test/thun_02_a.json").write_text(json.dumps(listed))
    return counts


def test_each_picture_is_a_scene_that_asks_for_its_objects(tmp_path: Path) -> None:
    counts = write_talk2event(tmp_path / "t2e")
    assert is_talk2event(tmp_path / "t2e")
    assert check_scenes(tmp_path / "t2e") == []
    report = cut_clips(read_talk2event(tmp_path / "t2e"), tmp_path / "out")
    assert (report.samples, report.sequences_cut, report.set_aside) == (2, 2, ())
    assert check_folder(tmp_path / "out") == []
    first, second = open_scenes(tmp_path / "out")
    assert first.sequence == second.sequence == "thun_02_a"
    assert [question.split(" Answer")[0] for question in first.questions] == [
        "Where is this? The red car on the left.",
        "Where is this? A red car",
        "Where is this? The bus",
    ]
    assert first.answers == ("[0.10, 0.10, 0.30, 1.00]",) * 3  # the box leaves the picture below
    assert [thing["id"] for thing in first.metadata["objects"]] == ["thun_02_a_0_53", "thun_02_a_1_53"]
    assert first.metadata["events"] == "binned"
    assert [frame_number(first.frames[0]), frame_number(second.frames[0])] == [5, 7]
    assert first.frames.shape == (8, 480, 640, 3)
    # one event after the other, by bin, negative before positive
    rows = []
    for plane in [10 * p + t for t in range(10) for p in (0, 1)]:
        for y, x in np.argwhere(counts[plane]):
            rows += [(x, y, plane // 10)] * int(counts[plane, y, x])
    x, y, p = np.array(rows).T
    stream = {"x": x, "y": y, "t": np.zeros(len(x), np.int64), "p": p}
    np.testing.assert_array_equal(first.event_images[0], event_images(stream, 1)[0])
    assert cut_clips(read_talk2event(tmp_path / "t2e"), tmp_path / "out").sequences_skipped == 2


def test_files_that_are_not_as_described(tmp_path: Path) -> None:
    write_talk2event(tmp_path)
    np.savez(tmp_path / "data/test/thun_02_a/event/000070.npz", events=np.zeros((10, 480, 640), np.uint8))
    with pytest.raises(ValueError, match=r"000070\.npz: 'events' is uint8 \(10, 480, 640\)"):
        cut_clips(read_talk2event(tmp_path), tmp_path / "out")
    assert ["000070.npz" in str(problem) for problem in check_scenes(tmp_path)] == [True]
    np.savez(tmp_path / "data/test/thun_02_a/event/000070.npz", events=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"000070\.npz: not a readable \.npz"):
        cut_clips(read_talk2event(tmp_path), tmp_path / "out")
    path = tmp_path / "meta_data_v10/test/thun_02_a.json"
    listed = json.loads(path.read_text())
    path.write_text(json.dumps([listed[0] | {"event_path": "../secret.npz"}]))
    with pytest.raises(ValueError, match=r"thun_02_a\.json: 'event_path' is '\.\./secret\.npz'"):
        cut_clips(read_talk2event(tmp_path), tmp_path / "out")
    del listed[1]["bbox"]
    path.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=r"thun_02_a\.json: not a list of objects .*'bbox'"):
        cut_clips(read_talk2event(tmp_path), tmp_path / "out")
