"""EvQA's layout, written by hand as the dataset's README tells it, into scenes with options."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.scenes import check_folder, cut_clips, event_images, open_scenes, read_evqa
from egptlib.scenes._evqa import is_evqa
from tests.scenes.conftest import frame_number, numbered_frame, random_events, read_entries

OPTIONS = ["A car.", "A person.", "A dog.", "Nothing."]


def write_evqa(root: Path, images: int = 12) -> dict:
    events = random_events(3000, span_us=1_500_000)
    events["t"] -= events["t"][0]
    listed = []
    for number, count in ((3, images), (10, 0)):
        path = root / f"h5_files/DSEC/{number}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file.attrs.update(sensor_resolution=(24, 32), num_events=3000, num_imgs=count, duration=1.5)
            file.attrs.update(camera_type="Gen3.1", data_source="DSEC", base_time=0.0)
            kinds = {"x": np.uint16, "y": np.uint16, "t": np.uint64, "p": np.uint8}
            for key, kind in kinds.items():
                file.create_dataset(f"events/{key}s", data=events[key].astype(kind), compression="gzip")
            for k in range(count):
                image = file.create_dataset(f"images/image{k:09d}", data=numbered_frame(k)[..., 0])
                image.attrs["timestamp"] = np.uint64(100_000 * k)
                image.attrs["event_idx"] = int(np.searchsorted(events["t"], 100_000 * k))
        item = {"qid": f"DSEC_{number}", "dataset_name": "DSEC", "question_id": number, "file_path": f"{number}.h5"}
        item |= {"question": "What moves?", "choices": OPTIONS, "answer": "A dog.", "question_type": "object"}
        listed.append(item | {"question_cn": "什么在动？", "choices_cn": OPTIONS, "answer_cn": "A dog."})
    (root / "questions").mkdir()
    (root / "questions/DSEC.json").write_text(json.dumps({"dataset_name": "DSEC", "questions": listed}))
    return events


def test_each_question_is_a_scene_of_the_whole_recording(tmp_path: Path) -> None:
    events = write_evqa(tmp_path / "EvQA")
    assert is_evqa(tmp_path / "EvQA")
    report = cut_clips(read_evqa(tmp_path / "EvQA"), tmp_path / "out")
    assert (report.samples, report.sequences_cut) == (1, 2)
    assert report.set_aside == ("DSEC_10/000000",)  # it has no images
    assert check_folder(tmp_path / "out") == []
    (scene,) = open_scenes(tmp_path / "out", num_frames=12)
    assert scene.questions == (
        "What moves?\n(A) A car.\n(B) A person.\n(C) A dog.\n(D) Nothing.\nOnly give the best option.",
    )
    assert scene.answers == ("(C) A dog.",)
    assert scene.choices == (tuple(OPTIONS),)
    assert [frame_number(frame) for frame in scene.frames] == list(range(12))
    np.testing.assert_array_equal(scene.event_images[0], event_images(events, 1)[0])
    assert cut_clips(read_evqa(tmp_path / "EvQA"), tmp_path / "out").sequences_skipped == 2
    command = ["make-scenes", "--events", str(tmp_path / "EvQA"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, "2 there already" in done.output) == (0, True)
    refused = CliRunner().invoke(app, [*command, "--window", "2s"])
    assert (refused.exit_code, "only --out goes with it" in refused.output) == (2, True)
    own = open_scenes(tmp_path / "out", questions=["What is this?"])[0]
    assert (own.answers, own.choices) == (None, ((),))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("file_path", "../../other.h5", "'file_path' is"),
        ("answer", "A cat.", "the answer among the choices"),
        ("choices", "A dog.", "the answer among the choices"),
        ("question_id", None, None),
    ],
)
def test_questions_that_are_not_as_described(tmp_path: Path, field: str, value: object, message: str | None) -> None:
    write_evqa(tmp_path)
    path = tmp_path / "questions/DSEC.json"
    content = json.loads(path.read_text())
    content["questions"][1][field] = value
    if message is None:
        del content["questions"][1][field]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"DSEC\.json: question 1: .*{message or 'expected the fields'}"):
        cut_clips(read_evqa(tmp_path), tmp_path / "out")
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"DSEC\.json: expected JSON"):
        cut_clips(read_evqa(tmp_path), tmp_path / "out")


@pytest.mark.parametrize("choices", [["a"], ["a", "a"], ["a", " "], ["b", "c"]])
def test_options_of_a_folder_are_checked(tmp_path: Path, choices: list[str]) -> None:
    write_evqa(tmp_path / "EvQA")
    cut_clips(read_evqa(tmp_path / "EvQA"), tmp_path / "out")
    entries = read_entries(tmp_path / "out")
    entries[0]["qa"] = [{"question": "Which?", "choices": choices, "answer": "a"}]
    (tmp_path / "out/EventGPT_Instruction_Subset.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"entry 0: 'Which\?': "):
        open_scenes(tmp_path / "out")
    assert len(check_folder(tmp_path / "out")) == 1
