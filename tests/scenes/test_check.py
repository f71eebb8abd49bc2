"""`check_folder` names each planted fault, and only those."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from egptlib.scenes import check_folder, check_scenes, save_events, write_video
from tests.scenes.conftest import numbered_frame, random_events, read_entries, write_entries
from tests.scenes.events.test_npy import Malicious
from tests.scenes.test_dsec import make_sequence
from tests.scenes.test_evqa import write_evqa
from tests.scenes.test_recording import write_m3ed


def test_a_good_folder_has_no_problem(users_folder: Path) -> None:
    assert check_folder(users_folder) == []


def test_a_text_that_is_no_unicode_is_named(users_folder: Path) -> None:
    entries = read_entries(users_folder)
    entries[1]["conversations"] = [
        {"from": "human", "value": "<event>\ncaf\ud800?"}, {"from": "gpt", "value": "A car."}
    ]  # fmt: skip
    write_entries(users_folder, entries)
    (problem,) = check_folder(users_folder)
    assert problem.sample == entries[1]["id"] and "'caf\\ud800?' is no valid Unicode" in problem.message


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


def test_a_link_that_leads_out_of_the_folder_is_told_and_one_inside_is_not(users_folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    clips, clip = users_folder / "mp4/zurich_city_01_b", users_folder / "mp4/interlaken_00_a/000000.mp4"
    clips.rename(outside / "clips")
    clips.symlink_to(outside / "clips")
    clip.rename(outside / "clip.mp4")
    clip.symlink_to(outside / "clip.mp4")
    (users_folder / "also.json").symlink_to(users_folder / "EventGPT_Instruction_Subset.json")
    assert sorted(map(str, check_folder(users_folder))) == [
        f"{clip}: a link that leads out of the folder, to {outside / 'clip.mp4'}",
        f"{clips}: a link that leads out of the folder, to {outside / 'clips'}",
    ]


def test_links_out_of_a_sequence_of_dsec_and_of_another_datasets_folder_are_told(tmp_path: Path) -> None:
    sequence, _, _ = make_sequence(tmp_path / "dsec/seq", frames=2)
    write_evqa(tmp_path / "EvQA")
    (tmp_path / "elsewhere").mkdir()
    links = [sequence / "images/left/rectified/000001.png", sequence / "events", tmp_path / "EvQA/h5_files/DSEC/10.h5"]
    for number, path in enumerate(links):
        path.symlink_to(path.rename(tmp_path / f"elsewhere/{number}"))
    (sequence / "round").symlink_to(sequence / "round")
    for place, own in ((sequence, links[:2]), (sequence.parent, links[:2]), (tmp_path / "EvQA", links[2:])):
        told = {str(problem).split(":")[0] for problem in check_scenes(place) if "leads out of" in str(problem)}
        assert told == set(map(str, own))


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


def test_recordings_are_read_to_their_end(tmp_path: Path) -> None:
    """Files of events, their own frames, videos, a sequence of DSEC, EvQA's folder: each good one, then damaged."""
    save_events(tmp_path / "rec.npy", random_events(50))
    write_m3ed(tmp_path / "m3ed.h5", random_events(5000, span_us=2_000_000), colour=False)
    write_video(tmp_path / "clip.mp4", [numbered_frame(number) for number in range(20)])
    folder, _, _ = make_sequence(tmp_path / "dsec/seq", frames=6)
    write_evqa(tmp_path / "EvQA")
    places = [tmp_path / name for name in ("rec.npy", "m3ed.h5", "clip.mp4", "dsec", "EvQA")]
    assert [check_scenes(path) for path in [*places, folder]] == [[]] * 6

    save_events(tmp_path / "rec.npy", random_events(0))
    with h5py.File(tmp_path / "m3ed.h5", "r+") as file:
        position = file["ovc/left/data"].id.get_chunk_info(30).byte_offset
    with (tmp_path / "m3ed.h5").open("r+b") as file:
        file.seek(position)
        file.write(bytes(range(255, 225, -1)))
    (tmp_path / "clip.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:-200])
    (folder / "images/left/rectified/000003.png").write_bytes(b"")
    (tmp_path / "EvQA/h5_files/DSEC/10.h5").unlink()
    problems = [check_scenes(path) for path in places]
    assert [len(found) for found in problems] == [1, 1, 1, 1, 1]
    wrong = ["rec.npy: holds no events", "m3ed.h5: frame 30 cannot be read", "clip.mp4: damaged", "000003.png", "10.h5"]
    for found, message in zip(problems, wrong, strict=True):
        assert message in str(found[0])
    assert [found[0].sample for found in problems] == ["", "", "", "seq", "DSEC_10"]
    assert [str(problem) for problem in check_scenes(tmp_path / "nowhere")] == [
        f"{tmp_path / 'nowhere'}: no such dataset folder"
    ]
