"""`check_folder` names each planted fault, and only those."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egptlib.scenes import check_folder
from tests.scenes.conftest import read_entries, write_entries
from tests.scenes.events.test_npy import Malicious


def test_a_good_folder_has_no_problem(users_folder: Path) -> None:
    assert check_folder(users_folder) == []


@pytest.mark.parametrize("part", ["event_npy", "event_image", "event_image_1f", "video"])
def test_parts_may_be_absent_altogether(users_folder: Path, part: str) -> None:
    shutil.rmtree(users_folder / part)
    assert check_folder(users_folder) == []


def test_every_fault_is_named_in_one_run(users_folder: Path) -> None:
    first, second = users_folder / "event_image/interlaken_00_a", users_folder / "event_npy/zurich_city_01_b"
    (first / "000000_2.png").unlink()
    (first / "000001_0.png").write_bytes((first / "000001_1.png").read_bytes()[:60])
    (users_folder / "event_image_1f/zurich_city_01_b/000000_0.png").unlink()
    np.save(second / "000000.npy", np.array({"x": Malicious("true")}, dtype=object), allow_pickle=True)
    (second / "000001.npy").write_bytes((second / "000001.npy").read_bytes()[:-100])
    mp4 = users_folder / "mp4/zurich_city_01_b/000001.mp4"
    mp4.write_bytes(mp4.read_bytes()[:-300])
    (users_folder / "mp4/interlaken_00_a/000000.mp4").unlink()
    (users_folder / "video/interlaken_00_a/000001/001004.png").write_bytes(b"")
    entries = read_entries(users_folder)
    entries.append({"id": "outside", "event_data": "../../secret.npy"})
    write_entries(users_folder, entries)

    problems = check_folder(users_folder)
    assert {(problem.sample, _file(problem.message)) for problem in problems} == {
        ("interlaken_00_a-0", "000000_2.png"),
        ("interlaken_00_a-0", "000000.mp4"),
        ("interlaken_00_a-1", "000001_0.png"),
        ("interlaken_00_a-1", "001004.png"),
        ("zurich_city_01_b-0", "000000_0.png"),
        ("zurich_city_01_b-0", "000000.npy"),
        ("zurich_city_01_b-1", "000001.npy"),
        ("zurich_city_01_b-1", "000001.mp4"),
        ("outside", "EventGPT_Instruction_Subset.json"),
    }
    assert len(problems) == 9
    assert all(str(problem).startswith(problem.sample) for problem in problems)


def test_frames_of_several_sizes(users_folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(users_folder / "video/zurich_city_01_b/000000/001003.png")
    (problem,) = check_folder(users_folder)
    assert problem.sample == "zurich_city_01_b-0"
    assert "video/zurich_city_01_b/000000: the frames differ in size" in problem.message


def _file(message: str) -> str:
    return Path(message.split(": ")[0]).name


def test_a_sample_without_sources(users_folder: Path) -> None:
    for part in ("event_npy", "event_image", "event_image_1f", "mp4", "video"):
        shutil.rmtree(users_folder / part)
    messages = [problem.message for problem in check_folder(users_folder)]
    assert sum(message.startswith("no event pictures and no events") for message in messages) == 4
    assert sum(message.startswith("no video") for message in messages) == 4


def test_empty_recording_and_repeated_id(users_folder: Path) -> None:
    empty = {key: np.zeros(0, np.uint16) for key in "xytp"}
    np.save(users_folder / "event_npy/interlaken_00_a/000000.npy", np.array(empty, dtype=object), allow_pickle=True)
    entries = read_entries(users_folder)
    entries[3]["id"] = entries[2]["id"]
    write_entries(users_folder, entries)
    messages = [problem.message for problem in check_folder(users_folder)]
    assert len(messages) == 2
    assert "2 entries have this id" in messages[0]
    assert messages[1].endswith("000000.npy: holds no events")


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"a": 1})])
def test_a_broken_index_is_one_problem(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "EventGPT_Instruction_Subset.json").write_text(content)
    problems = check_folder(tmp_path)
    assert len(problems) == 1
    assert "EventGPT_Instruction_Subset.json" in problems[0].message
