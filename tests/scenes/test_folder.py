"""`open_scenes` on the users' own folders, complete and with parts missing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.scenes import QUESTIONS, SceneFolder, evenly, event_images, load_events, load_questions, open_scenes
from tests.scenes.conftest import encode, frame_number, read_entries, write_entries, write_sample

EVEN = (0, 2, 5, 8, 10, 13, 16, 19)


def test_one_view_comes_from_event_image_1f(users_folder: Path) -> None:
    scenes = open_scenes(users_folder)
    assert len(scenes) == 4
    scene = scenes[1]
    assert (scene.id, scene.sequence) == ("interlaken_00_a-1", "interlaken_00_a")
    assert len(scene.event_images) == 1
    np.testing.assert_array_equal(scene.event_images[0], np.full((24, 32, 3), (200, 100, 2)))
    assert (scene.rendering, scene.frame_sampling, scene.frame_indices) == ("stored", "even", EVEN)
    assert scene.frames.shape == (8, 48, 64, 3)
    assert tuple(frame_number(frame) for frame in scene.frames) == EVEN
    assert (scene.questions, scene.answers) == (QUESTIONS, None)
    assert scene.metadata["events"] == "unknown"
    assert scene.metadata["load_seconds"] > 0
    events = scene.events()
    assert events is not None
    assert len(events["t"]) == 500


def test_five_views_come_from_event_image(users_folder: Path) -> None:
    images = open_scenes(users_folder, event_views=5)[0].event_images
    assert [tuple(image[0, 0]) for image in images] == [(10 * view, 100, 1) for view in range(5)]


@pytest.mark.parametrize("views", [1, 5])
def test_without_pictures_the_raw_events_are_drawn(users_folder: Path, views: int) -> None:
    shutil.rmtree(users_folder / "event_image_1f")
    if views == 5:
        shutil.rmtree(users_folder / "event_image")
    scene = open_scenes(users_folder, event_views=views, order="polarity")[2]
    events = load_events(users_folder / "event_npy/zurich_city_01_b/000000.npy")
    for got, expected in zip(scene.event_images, event_images(events, views, order="polarity"), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert scene.rendering == "polarity"


def test_raw_events_on_request(users_folder: Path) -> None:
    scene = open_scenes(users_folder, event_views=3, from_events=True)[0]
    assert len(scene.event_images) == 3
    assert scene.rendering == "last"
    assert "event_npy" in scene.metadata["images_from"]


def test_the_first_of_five_parts_never_serves_as_the_whole(users_folder: Path) -> None:
    shutil.rmtree(users_folder / "event_image_1f")
    shutil.rmtree(users_folder / "event_npy")
    with pytest.raises(FileNotFoundError, match=r"no source for 1 event image.*event_image_1f.*event_npy") as error:
        open_scenes(users_folder)[0]
    assert "event_image/" not in str(error.value)
    scene = open_scenes(users_folder, event_views=5)[0]
    assert scene.events() is None


def test_a_gap_in_the_five_is_named(users_folder: Path) -> None:
    (users_folder / "event_image/interlaken_00_a/000000_3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"000000_3\.png: no such image"):
        open_scenes(users_folder, event_views=5)[0]


def test_frames_fall_back_to_the_png_folder(users_folder: Path) -> None:
    shutil.rmtree(users_folder / "mp4")
    scene = open_scenes(users_folder, sampling="first", num_frames=4)[0]
    assert [frame_number(frame) for frame in scene.frames] == [0, 1, 2, 3]
    assert (scene.frame_sampling, scene.frame_indices) == ("first", (0, 1, 2, 3))
    shutil.rmtree(users_folder / "video")
    with pytest.raises(FileNotFoundError, match=r"no video; looked for .*000000\.mp4 and .*/video/"):
        open_scenes(users_folder)[0]


def test_missing_keys_are_derived(users_folder: Path) -> None:
    complete = open_scenes(users_folder, event_views=5)[3]
    write_entries(users_folder, [{"event_data": entry["event_data"]} for entry in read_entries(users_folder)])
    for views in (1, 5):
        scene = open_scenes(users_folder, event_views=views)[3]
        assert (scene.id, scene.sequence) == ("zurich_city_01_b/000001", "zurich_city_01_b")
    np.testing.assert_array_equal(scene.event_images, complete.event_images)
    np.testing.assert_array_equal(scene.frames, complete.frames)


def test_published_form_with_conversations(tmp_path: Path) -> None:
    """The published EventGPT data has only id, event_data and conversations, and no folder per sequence."""
    write_sample(tmp_path, "sample", seed=1)
    talk = [
        {"from": "human", "value": "<event>\nWhat is this?"},
        {"from": "gpt", "value": "A street."},
        {"from": "human", "value": "How many cars?"},
        {"from": "gpt", "value": "Two."},
    ]
    write_entries(tmp_path, [{"id": 7, "event_data": "sample.npy", "conversations": talk}])
    scene = open_scenes(tmp_path)[0]
    assert (scene.id, scene.sequence) == ("7", "sample")
    assert scene.questions == ("What is this?", "How many cars?")
    assert scene.answers == ("A street.", "Two.")


def test_question_without_answer_gives_no_answers(users_folder: Path) -> None:
    entries = read_entries(users_folder)
    entries[0]["conversations"][0]["value"] = "<event>\nWhat is this?"
    entries[1]["conversations"] = []
    entries[2]["qa"] = [{"question": question, "answer": answer} for question, answer in ("Aa", "Bb", "Ac")]
    entries[2]["slots"] = {"time_of_day": "day"}
    entries[3]["qa"] = [{"question": "A?", "answer": "a"}, {"question": "B?"}]
    write_entries(users_folder, entries)
    scenes = list(open_scenes(users_folder))
    assert (scenes[0].questions, scenes[0].answers) == (("What is this?",), None)
    assert (scenes[1].questions, scenes[1].answers) == (QUESTIONS, None)
    assert (scenes[2].questions, scenes[2].answers) == (("A", "B", "A"), ("a", "b", "c"))
    assert scenes[2].metadata["slots"] == {"time_of_day": "day"}
    assert (scenes[3].questions, scenes[3].answers) == (("A?", "B?"), None)
    asked = open_scenes(users_folder, questions=["B"])[2]  # the caller's questions, with the answer the scene has
    assert (asked.questions, asked.answers) == (("B",), ("b",))


def test_questions_from_files(tmp_path: Path, users_folder: Path) -> None:
    texts = [f"Question {number}?" for number in range(12)]
    as_json, as_lines = tmp_path / "q.json", tmp_path / "q.txt"
    as_json.write_text(json.dumps([{"question": text, "count": 99 - i} for i, text in enumerate(texts)]))
    as_lines.write_text("".join(f"{99 - i}\t{text}\n" for i, text in enumerate(texts)) + "\n")
    assert load_questions(as_json) == load_questions(as_lines) == tuple(texts[:10])
    assert open_scenes(users_folder, questions=as_lines)[0].questions == tuple(texts[:10])


@pytest.mark.parametrize(
    ("text", "message"),
    [("[", "not valid JSON"), ('[{"count": 3}]', "entry 0 is not"), ("many questions", "line 1 is not"), ("", "no q")],
)
def test_wrong_question_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"q\.txt: .*{message}"):
        load_questions(tmp_path / "q.txt")


def test_lazy(users_folder: Path) -> None:
    """A broken sample is met when it is indexed, and not before; its neighbours are not read."""
    for path in (users_folder / "mp4/interlaken_00_a").iterdir():
        path.write_bytes(b"broken")
    scenes = open_scenes(users_folder)
    assert scenes[2].sequence == scenes[-1].sequence == "zurich_city_01_b"
    assert len(scenes[2:]) == 2
    with pytest.raises(ValueError, match=r"interlaken_00_a/000000\.mp4: damaged video"):
        scenes[0]
    with pytest.raises(IndexError):
        scenes[4]


def test_a_damaged_scene_is_set_aside_by_name(users_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where a few scenes are taken to measure on; where none can be read, one line names folder and scene."""
    scenes = open_scenes(users_folder)
    ids = scenes.ids
    assert [scene.id for scene in scenes.readable()] == ids and not caplog.messages
    for number, record in enumerate(scenes._records):
        record.mp4_path.unlink(missing_ok=True)
        shutil.rmtree(record.frames_path, ignore_errors=True)
        told = f"scene {ids[0]}: no video; looked for {scenes._records[0].mp4_path} and "
        if number < len(ids) - 1:
            assert [scene.id for scene in scenes.readable()] == ids[number + 1 :]
            assert len(caplog.messages) == number + 1 and caplog.messages[0].startswith(f"set aside: {told}")
            caplog.clear()
    with pytest.raises(ValueError) as caught:
        next(scenes.readable())
    assert str(caught.value).startswith(f"{users_folder}: none of {len(ids)} scenes could be read; {told}")
    assert not caplog.messages


@pytest.mark.parametrize("verb", ["selftest", "benchmark costs", "benchmark divergences"])
def test_verbs_that_measure_set_a_damaged_scene_aside(
    users_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def load(settings: object) -> None:
        raise ValueError("the models come after the scenes")

    monkeypatch.setattr("egptlib.models.load_pair", load)
    first = open_scenes(users_folder)._records[0]
    first.mp4_path.unlink(missing_ok=True)
    shutil.rmtree(first.frames_path, ignore_errors=True)
    options = ["--precision", "float32"] * verb.startswith("benchmark")
    arguments = [*verb.split(), "--dataset", str(users_folder), "--event-views", "1", "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, arguments + options)
    assert f"set aside: scene {first.id}: no video" in told.stdout and "the models come after" in told.stderr


def test_select_and_slice(users_folder: Path) -> None:
    scenes = open_scenes(users_folder)
    assert scenes.sequences == ["interlaken_00_a", "zurich_city_01_b"]
    assert scenes.select(["zurich_city_01_b"]).ids == ["zurich_city_01_b-0", "zurich_city_01_b-1"]
    assert scenes.select(ids=["zurich_city_01_b-0"])[0].id == "zurich_city_01_b-0"
    assert [scene.id for scene in scenes[1:3]] == ["interlaken_00_a-1", "zurich_city_01_b-0"]
    assert scenes.spread(2).ids == [scenes.ids[0], scenes.ids[len(scenes) // 2]]
    assert scenes.spread(99).ids == scenes.ids
    assert evenly(11, 6) == [0, 1, 3, 5, 7, 9] and evenly(3, 6) == [0, 1, 2] and evenly(0, 2) == []
    with pytest.raises(ValueError, match="num_scenes: expected at least 1, found 0"):
        scenes.spread(0)
    assert open_scenes(users_folder, num_sequences=1).sequences == ["interlaken_00_a"]
    with pytest.raises(ValueError, match="has no sequence thun_00_a"):
        scenes.select(["thun_00_a"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("event_data", "/etc/passwd"),
        ("event_data", "../other/000000.npy"),
        ("mp4_data", "seq/../../../secret.mp4"),
        ("mp4_data", "..\\..\\secret.mp4"),
        ("video_data", "C:/secret"),
        ("event_image", ["/etc/a.png"]),
        ("event_image_1f", ["../a.png"]),
        ("event_image_1f", []),
        ("event_data", 5),
        ("mp4_data", ""),
    ],
)
def test_paths_that_leave_the_folder_are_refused(users_folder: Path, key: str, value: object) -> None:
    entries = read_entries(users_folder)
    entries[1][key] = value
    write_entries(users_folder, entries)
    with pytest.raises(ValueError, match=rf"Subset\.json: entry 1: '{key}'"):
        open_scenes(users_folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ('{"a": 1}', "expected a list of samples, found dict"),
        ("[3]", "entry 0: expected an object, found int"),
        ('[{"id": "a"}]', "entry 0: 'event_data' is missing"),
        ('[{"event_data": "a/b.npy", "qa": [{"q": 1}]}]', "entry 0: 'qa' must list"),
        ('[{"event_data": "a/b.npy", "conversations": ["hello"]}]', "entry 0: 'qa' must list"),
    ],
)
def test_wrong_index(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "EventGPT_Instruction_Subset.json").write_text(content)
    with pytest.raises(ValueError, match=f"Subset.json: {message}"):
        open_scenes(tmp_path)


def test_wrong_arguments(users_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such dataset folder, and not one of streets"):
        open_scenes("nowhere")
    with pytest.raises(FileNotFoundError, match=f"looked for {Path.cwd()}/nowhere"):
        open_scenes("nowhere")
    with pytest.raises(FileNotFoundError, match=r"EventGPT_Instruction_Subset\.json is missing"):
        open_scenes(tmp_path)
    wrongs: tuple[dict, ...] = ({"event_views": 0}, {"sampling": "random"}, {"order": "first"}, {"questions": []})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
            open_scenes(users_folder, **wrong)


def test_streets_are_made_once_and_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in name opens the folder under the data root; it is made when sequences are missing, and only then."""
    from egptlib.scenes.streets import _make as _streets

    calls = []
    real = _streets.make_streets

    def make(folder: Path, split: str, num_sequences: int = 1) -> None:
        calls.append((split, num_sequences))
        real(folder, split, num_sequences, seconds=1.0, workers=1)

    monkeypatch.setenv("EGPTLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(_streets, "make_streets", make)
    first = ["streets_test_0000"]
    assert open_scenes("mini", split="test", num_sequences=1).sequences == first
    assert open_scenes("streets", split="test").sequences == first
    assert open_scenes("streets", num_sequences=2).sequences == [*first, "streets_test_0001"]
    assert open_scenes("streets", num_sequences=1).sequences == first
    assert open_scenes("streets", "train").folder == tmp_path / "data/streets/streets_train_1s"
    assert calls == [("test", 1), ("test", 2), ("train", 1)]
    with pytest.raises(ValueError, match="split 'val' of streets"):
        open_scenes("streets", split="val")


def test_import_is_light() -> None:
    """`egptlib.scenes` loads no torch, and none of the heavy readers before they are used."""
    assert loaded("import egptlib.scenes", "torch av h5py cv2 numba joblib") == []
    assert loaded("from egptlib.scenes import *", "torch") == []


def loaded(statement: str, modules: str) -> list[str]:
    """Return which of `modules` a fresh interpreter holds after `statement`."""
    code = f"import sys\n{statement}\nprint(*sorted(set(sys.modules) & set({modules.split()})))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_every_public_name_exists() -> None:
    import egptlib.scenes

    for name in egptlib.scenes.__all__:
        assert getattr(egptlib.scenes, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        egptlib.scenes.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_clip_of_variable_length_is_recorded(users_folder: Path) -> None:
    path = users_folder / "mp4/interlaken_00_a/000000.mp4"
    encode(path, 10)
    assert SceneFolder(users_folder)[0].frame_indices == (0, 1, 2, 3, 5, 6, 7, 9)
