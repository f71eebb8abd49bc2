"""What `faults.py` disturbs: a store, an extraction, a training, a sweep; each can be stopped and done again."""

import contextlib
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

import egptlib
from egptlib._sealed import read_sealed
from egptlib.adapters import FitSettings, create_adapter, load_adapter, train_adapter
from egptlib.adapters._build import read_tensors
from egptlib.hidden_states import Head, HiddenStates, HiddenStateWriter, extract, write_trace
from egptlib.models import load_pair
from egptlib.reporting import Job, _runner, check_runs, collect, run_notebooks
from egptlib.scenes import open_scenes
from egptlib.traces import Trace

COMMIT, CHUNK, SAMPLES, EPOCHS, POINTS = 5, 20, 130, 4, 6
Files = dict[str, Any]
STAND_IN = """
import json, os, sys, time
from pathlib import Path
from egptlib._paths import write_json
from egptlib._processes import end_with
end_with(os.getppid())
out, told = Path(sys.argv[2]), json.loads(Path(sys.argv[2], "params.json").read_text())
time.sleep(0.02)
write_json(out / "metrics.json", {"product": told["x"] * told["y"]})
(out / "figures").mkdir()
(out / "figures" / "a.csv").write_text("x\\n%d\\n" % told["x"])
write_json(out / "status.json", {"state": "done", "notebook": "04_toy", "seconds": 0.1, "started": "2026"})
"""


class Work:
    """Something that is stored, which can be stopped at any moment and done again."""

    def do(self, folder: Path) -> None:
        """Do it, or go on where it stands."""
        raise NotImplementedError

    def whole(self, folder: Path) -> None:
        """What must hold at any moment, also while another process is at work."""

    def files(self, folder: Path) -> Files:
        """All that it left, by name, without times and locks."""
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return {name: data for name, data in found.items() if not name.endswith(".lock")}


class Writing(Work):
    """Generated samples into a store, small commits and chunks, then its trace."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples

    def do(self, folder: Path) -> None:
        with HiddenStateWriter(folder, {"run": 1}, CHUNK, "bfloat16", COMMIT) as writer:
            writer.add_heads(target=Head(torch.eye(16), torch.ones(16), 1e-6))
            for number in range(self.samples):
                if (key := sample(number)["metadata"])["scene"] not in {scene for scene, _ in writer}:
                    writer.add(**sample(number))
                    assert (key["scene"], key["question"]) in writer
        write_trace(folder)

    def whole(self, folder: Path) -> None:
        try:
            states = HiddenStates.open(folder)
            found = [metadata["scene"] for metadata in states.metadata()]
            some = {i: states[i] for i in random.sample(range(len(states)), min(3, len(states)))}
            read_trace(folder)
        except FileNotFoundError:  # none yet, or a small file has just become part of a large one: told, not wrong
            return
        assert found == [sample(number)["metadata"]["scene"] for number in range(len(found))], "doubled or out of order"
        for number, read in some.items():
            assert torch.equal(read.target_hidden, sample(number)["target_hidden"].to(torch.bfloat16)), "wrong"


class Extraction(Work):
    """The mini pair on `streets`, in batches that commits and chunks cut."""

    def __init__(self) -> None:
        self.pair = load_pair("mini")
        self.scenes = open_scenes("streets", split="test", event_views=5).spread(8)
        self.asked = [(scene.id, question) for scene in self.scenes for question in scene.questions[:3]]
        with tempfile.TemporaryDirectory() as folder:  # so that no child imports what this needs
            extract(self.pair, self.scenes.spread(1), folder, num_questions=1, max_new_tokens=1)

    def do(self, folder: Path) -> None:
        options: dict[str, Any] = {"num_questions": 3, "max_new_tokens": 6, "batch_size": 6, "commit_every": 4}
        extract(self.pair, self.scenes, folder, chunk_size=10, **options)

    def whole(self, folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # none yet, or several small files have just become a large one
            states = HiddenStates.open(folder)
            found = [(metadata["scene"], metadata["question"]) for metadata in states.metadata()]
            assert found == self.asked[: len(found)], "doubled or out of order"
            if found:
                number = random.randrange(len(found))
                assert len(states[number].target_hidden) == states.lengths[number] > 0, "not whole"
            read_trace(folder)


class Training(Work):
    """An L1 adapter on generated states: settings, state and history of the training, best weights."""

    def __init__(self, states: Path) -> None:
        Writing().do(states)
        self.states = HiddenStates.open(states)
        self.parts = self.states[:100], self.states[100:]

    def do(self, folder: Path) -> None:
        torch.manual_seed(0)
        settings = FitSettings(epochs=EPOCHS, patience=9)
        train_adapter(create_adapter("L1", 16, bottleneck=4), self.parts[0], folder, settings, validation=self.parts[1])

    def whole(self, folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            load_adapter(folder)
        with contextlib.suppress(FileNotFoundError):
            epochs = [row["epoch"] for row in read_sealed(folder / "history.json")["epochs"]]
            assert epochs == list(range(1, len(epochs) + 1)), "epochs lost or doubled"

    def files(self, folder: Path) -> Files:
        def timeless(told: Any) -> Any:
            if isinstance(told, dict):
                return {k: timeless(v) for k, v in told.items() if k not in ("seconds", "checksum")}
            return [timeless(v) for v in told] if isinstance(told, list) else told

        found: Files = {}
        for name, data in super().files(folder).items():
            if name.endswith(".json"):
                found[name] = timeless(json.loads(data))
            else:
                tensors = read_tensors(folder / name)
                history = tensors.pop("history", None)
                found[name] = {key: value.tolist() for key, value in tensors.items()}
                if history is not None:
                    found["rows"] = timeless(json.loads(bytes(history.tolist())))
        return found


class Sweep(Work):
    """Six points of a grid, each in a process and a run folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "stand_in.py").write_text(STAND_IN)
        cell: dict[str, Any] = {
            "cell_type": "code",
            "metadata": {},
            "source": ["x = 1"],
            "outputs": [],
            "execution_count": None,
        }
        notebook = folder / "04_toy.ipynb"
        notebook.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        root = Path(egptlib.__file__).parents[1]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(root), os.environ.get("PYTHONPATH", "")])
        _runner._EXECUTE = "stand_in"
        self.jobs = [Job(notebook, {"x": x, "y": y}) for x in range(1, 1 + POINTS // 2) for y in (2, 3)]

    def do(self, folder: Path) -> None:
        failed = [outcome for outcome in run_notebooks(self.jobs, folder, workers=1) if outcome.error]
        if failed:
            raise OSError(f"{len(failed)} runs failed, the first with: {failed[0].error}")

    def whole(self, folder: Path) -> None:
        if folder.is_dir():
            assert check_runs(folder) == [], "a run that is not whole"
            frame = collect(folder)
            assert not len(frame) or (frame["product"] == frame["x"] * frame["y"]).all(), "wrong"


def read_trace(folder: Path) -> None:
    """Only a store that was finished has one; it is read whole."""
    if (folder / "trace.parquet").is_file():
        assert len(Trace.load(folder / "trace.parquet").rows) <= len(HiddenStates.open(folder)), "of more samples"


def sample(number: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    length = 1 + number % 13
    ids = torch.randint(0, 32_000, (2, length), generator=generator)
    states, figures = torch.randn(2, length, 16, generator=generator), torch.rand(3, length, generator=generator)
    return {
        "drafter_hidden": states[0], "target_hidden": states[1], "token_ids": ids[0] % 16, "drafter_top1": ids[1] % 16,
        "overlap": figures[0], "drafter_confidence": figures[1], "target_entropy": figures[2],
        "metadata": {"scene": f"seq_{number // 9}/{number:06d}", "sequence": f"seq_{number // 9}", "question": "What?"},
    }  # fmt: skip
