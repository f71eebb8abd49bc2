"""What notebooks begin with: parameters are checked, scenes are spread, states are shared and extracted once."""

import gc
import json
import re
import weakref
from logging import getLogger
from pathlib import Path
from typing import Any

import pytest
import torch

from egptlib import notebook
from egptlib.models import PairSettings
from egptlib.notebook import Experiment, begin
from egptlib.reporting import open_run
from egptlib.scenes import INDEX_NAME, QUESTIONS


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Twenty-four entries without a picture: nothing here reads one."""
    folder = tmp_path / "drives"
    folder.mkdir()
    qa = [{"question": f"{word}?", "answer": "a car"} for word in ("Who", "What", "Where")]
    entries = [
        {"id": f"s{i // 4}/{i:02d}", "event_data": f"s{i // 4}/{i:02d}.npy", "qa": qa[: 3 - (i == 23)]}
        for i in range(24)
    ]
    (folder / INDEX_NAME).write_text(json.dumps(entries))
    return folder


def opened(dataset: Path, pair: str = "mini", num_scenes: int = 20, num_questions: int = 2) -> Experiment:
    run = open_run(str(dataset.parent / "runs" / "one"), "01_toy")
    return begin(run, str(dataset), "test", pair, 5, num_scenes, num_questions, 8)


def test_scenes_are_taken_from_all_sequences(dataset: Path) -> None:
    """The first twenty of twenty-four, as a slice with a step of one gives them, would leave a sequence out."""
    here = opened(dataset)
    assert len(here.scenes) == 20 and here.scenes.sequences == [f"s{i}" for i in range(6)]
    assert here.scenes.options.event_views == 5


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"num_scenes": 0}, "num_scenes: expected at least 1, found 0"),
        ({"num_questions": 0}, "num_questions: expected at least 1, found 0"),
        ({"num_questions": 300}, "num_questions: expected at most 2, the questions of a scene, found 300"),
    ],
)
def test_a_count_that_cannot_be_is_one_clear_error(dataset: Path, counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        opened(dataset, **{"num_scenes": 99} | counts)


def test_scenes_without_questions_are_asked_the_ten(dataset: Path) -> None:
    entries = [{"id": "s/0", "event_data": "s/0.npy"}]
    (dataset / INDEX_NAME).write_text(json.dumps(entries))
    assert opened(dataset, num_questions=len(QUESTIONS)).scenes.num_questions == 10
    (dataset / INDEX_NAME).write_text("[]")
    with pytest.raises(ValueError, match="expected at least one"):
        opened(dataset)


def test_lines_of_a_notebook_name_folders_relative_to_the_run(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EGPTLIB_DATA", str(dataset.parent / "data"))
    here = opened(dataset)
    log = getLogger("egptlib.hidden_states")
    log.info("extracted 3 pairs -> %s", here.states_folder())
    log.info("making %s (once)", dataset.parent / "data" / "streets")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["extracted 3 pairs -> shared/hidden_states/drives-mini-5v-8t-target", "making streets (once)"]


def test_states_are_extracted_once_and_pairs_do_not_share_them(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half.toml").write_text('name = "mini"\ndtype = "bfloat16"\n')
    plain, half = opened(dataset), opened(dataset, str(tmp_path / "half.toml"))
    folders = {
        here.states_folder(path, layers)
        for here in (plain, half)
        for path, layers in (("target", ()), ("free", ()), ("target", (2, 5)))
    }
    assert len(folders) == 6 and {folder.parent.parent.name for folder in folders} == {"shared"}
    assert not (plain.run.folder / "pair.json").exists() or half.settings.dtype == "bfloat16"
    assert json.loads((half.run.folder / "pair.json").read_text()) == vars(PairSettings(dtype="bfloat16"))

    done: list[str] = []

    def extract(models: Any, scenes: Any, folder: Path, *, path: str, **options: Any) -> None:
        done.append(path)
        assert (models, options["layers"], options["num_questions"]) == ("loaded", None, 2)

    monkeypatch.setattr(notebook, "load_pair", lambda settings: "loaded")
    monkeypatch.setattr(notebook, "extract", extract)
    monkeypatch.setattr(notebook, "is_complete", lambda folder, scenes, count: bool(done))
    monkeypatch.setattr("egptlib.notebook.HiddenStates.open", lambda folder: Selected())
    for _ in range(2):
        chosen: Any = plain.states("free")
        assert chosen == ["s0/00", 2]
    assert done == ["free"]


class Selected:
    def select(self, scene: list[str], question_index: list[int]) -> list[Any]:
        return [scene[0], len(question_index)]


def test_the_environment_names_the_devices_that_run(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several GPUs those of the pair, not the first; where the pair is on the CPU, no GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"card {torch.device(device).index or 0}")
    folder = Path(__file__).parents[1] / "egptlib" / "models" / "mini"
    found = []
    for lines in ("", 'device = "cuda:1"', 'target_device = "cuda:1"'):
        pair = dataset.parent / "pair.toml"
        pair.write_text(f'name = "p"\ndrafter = "{folder / "drafter"}"\ntarget = "{folder / "target"}"\n{lines}\n')
        here = opened(dataset, str(pair))
        found.append(json.loads((here.run.folder / "environment.json").read_text())["device"])
    cpu = f"cpu ({torch.get_num_threads()} threads)"
    assert found == [cpu, "cuda: card 1", f"{cpu} and cuda: card 1"]


def test_models_that_are_released_are_gone(dataset: Path) -> None:
    here = opened(dataset)
    gone = weakref.ref(here.models.target.module)
    here.release()
    here.release()  # nothing is there to let go
    gc.collect()
    assert gone() is None
    assert here.models.target.name == "Video-LLaVA"
