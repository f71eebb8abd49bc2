"""Every verb, every wrong input: one line that names what was wrong, and exit code 2.

The verbs and their options are read from the app, so that one without a row here fails.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import egptlib.models
from egptlib._paths import write_json
from egptlib.adapters import create_adapter, save_adapter
from egptlib.cli import app
from egptlib.hidden_states import HiddenStateWriter, write_trace
from egptlib.metrics import Costs


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from _leaves(inner, (*path, name))
        else:
            yield " ".join((*path, name)), inner


COMMAND: Any = typer.main.get_command(app)
VERBS = dict(_leaves(COMMAND))

# What each verb needs to get as far as it does; {names} are files of `World`.
NEEDED = {
    "adapters": "",
    "benchmark costs": "--dataset {dataset} --out {out}",
    "benchmark divergences": "--dataset {dataset} --out {out}",
    "check": "{dataset}",
    "convert": "{states} {out}",
    "convert-states": "{states} --out {out}",
    "cut-dsec": "{dataset} --out {out}",
    "demo": "--out {out}",
    "evaluate": "{states}",
    "explain": "{log}",
    "export-head": "{head} --out {out}",
    "extract": "--out {out} --dataset {dataset}",
    "findings": "--recorded {runs} --out {out}",
    "fit-costs": "{trace} --method m --out {out}",
    "lab": "",
    "make-data": "streets",
    "make-pair": "midi --out {out}",
    "make-scenes": "--events {events} --out {out}",
    "paper": "{runs} --out {out}",
    "papers check": "",
    "papers fetch": "no_such_key",
    "plan-extraction": "--dataset {dataset}",
    "plan-memory": "",
    "predict": "{trace} --costs {costs}",
    "predict-recorded": "{recorded}",
    "quantize": "mini --out {out}",
    "random-pair": "--out {out}",
    "rehearse": "--out {out}",
    "report": "{runs}",
    "roadmap check": "",
    "roadmap index": "",
    "run": "01 --dataset {dataset} --out {out}",
    "runs compare": "first second --root {runs}",
    "runs list": "{runs}",
    "runs star": "first --root {runs}",
    "selftest": "--dataset {dataset} --out {out}",
    "show-events": "{events}",
    "sweep": "{grid} --out {out}",
    "trace": "{states} --out {out}",
    "train": "L1 --states {states} --out {out}",
    "train-mini": "--out {out} --work {out}",
    "train-mini-heads": "--states {states} --test {states} --out {out} --work {out}",
    "train-midi": "--out {out} --work {out}",
    "train-tokens": "{recorded} --out {out}",
}

# What is read from an option's value: each kind has its wrong ones below.
READ = {
    "dataset": "benchmark costs --dataset, benchmark divergences --dataset, extract --dataset, check data, "
    "plan-extraction --dataset, run --dataset, selftest --dataset",
    "states": "convert old, evaluate folder, convert-states store, export-head --states, train --test, "
    "train-mini-heads --states, train-mini-heads --test",
    "training": "train --states",
    "recording": "cut-dsec sequences",
    "events": "make-scenes --events, show-events file",
    "video": "make-scenes --video",
    "questions": "make-scenes --questions",
    "recorded": "predict-recorded source, train-tokens recorded, trace source",
    "trace": "fit-costs source, predict source, predict --timed",
    "costs": "predict --costs",
    "runs": "paper runs, paper --root, report runs, report --root, runs compare --root, runs star --root",
    "list": "runs list runs, runs list --root",
    "log": "explain log, explain --baseline",
    "head": "export-head head",
    "checkout": "papers check --root, papers fetch --root, roadmap check --root, roadmap index --root",
    "grid": "sweep grid",
    "pair": "benchmark costs --pair, benchmark divergences --pair, extract --pair, plan-extraction --pair, run --pair, "
    "selftest --pair",
    "saved": "quantize pair, rehearse --pair",
    "folder": "findings --recorded, make-pair --trained",
    "name": "lab --reset, runs compare names, runs star name, papers fetch keys, run notebooks, make-data source, "
    "train level, train-mini-heads --level, explain --method, export-head --format, "
    "run -p, cut-dsec --window, make-scenes --window, extract --layers, plan-extraction --layers, "
    "benchmark costs --precision, benchmark divergences --precision, train --device, selftest --device, "
    "selftest --target-device, rehearse --device, rehearse --target-device, rehearse --gpu, extract --cluster, "
    "sweep --cluster",
}
# Options whose every value is as good as another, or that are read only with others.
FREE = (
    "runs list --notebook, runs star --note, fit-costs --method, fit-costs --after, predict --method, "
    "benchmark costs --split, benchmark divergences --split, extract --split, plan-extraction --split, "
    "selftest --split, export-head --pair, export-head --verifier, "
    "make-data --split, train --dataset, train --pair, findings --tokenizer, findings --legacy-l4"
)
WRITTEN = ("out", "work", "new", "run", "figure")

_FILES = ("missing", "empty", "folder", "bytes")
_JSON = (*_FILES, "deep.json", "list.json", "nan.json", "long.json")
WRONG = {
    "dataset": (*_FILES, "set_empty", "set_deep", "set_object", "set_bare", "set_no_events", "set_half"),
    "states": (*_FILES, "states_empty"),
    "training": (*_FILES, "states_empty", "states_one"),  # one sequence cannot be split
    "recording": ("missing", "empty", "folder", "bytes"),
    "events": (*_FILES, "empty.npy", "bytes.npy", "huge.npy", "none.npy", "empty.h5", "empty.csv", "empty.raw"),
    "video": ("missing", "empty", "folder", "bytes", "empty.mp4", "bytes.mp4"),
    "questions": (*_FILES, "deep.json"),
    "recorded": _JSON,
    "trace": (*_FILES, "empty.parquet", "bytes.parquet"),
    "costs": _JSON,
    "runs": ("missing", "empty", "folder", "bytes"),
    "log": _JSON,
    "head": _FILES,
    "list": ("missing", "empty", "bytes"),  # an empty folder has an empty list
    "checkout": ("missing", "empty", "folder", "bytes"),
    "grid": (*_FILES, "deep.json", "list.json", "huge.yaml", "nan.yaml", "date.yaml"),
    "pair": ("missing", "missing.toml", "empty.toml", "folder.toml", "bytes.toml", "deep.toml", "cuda.toml"),
    "saved": ("missing", "missing.toml", "empty.toml", "folder.toml", "bytes.toml", "deep.toml"),  # needs no device
    "folder": ("missing", "empty", "folder", "bytes"),
    "name": ("missing",),
}


class World:
    """One folder with something valid of each kind, and what is wrong of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("dataset", "states", "runs", "wrong_folder", "wrong_folder.toml"):
            (folder / name).mkdir()
        self._datasets()
        self._states("states", 3)
        self._states("wrong_states_empty", 0)
        self._states("wrong_states_one", 1)
        write_trace(folder / "states", out=folder / "trace")
        Costs(1.0, 0.5, verify={1: 1.0, 8: 1.5}).save(folder / "costs")
        (folder / "recorded").write_text("{}")
        save_adapter(create_adapter("E3S", 8, num_heads=2, ffn_dim=8, source_layers=(1, 2, 3)), folder / "head")
        (folder / "log").write_text('{"runs": [{"tokens_per_pass": 2.0, "speedup": 1.5, "gamma": 3}]}')
        self._events("events", 50)
        for name in ("first", "second"):
            status = {"state": "done", "notebook": "01_toy", "seconds": 1.0, "started": "2026"}
            write_json(folder / "runs" / name / "status.json", status)
        cell = nbformat.v4.new_code_cell("threshold = 0.5\nwhen = None", metadata={"tags": ["parameters"]})
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "toy.ipynb")
        self._grid("grid", "threshold: [0.5]")
        axes = ", ".join(f"p{n}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" for n in range(8))
        self._grid("wrong_huge.yaml", axes)
        self._grid("wrong_nan.yaml", "threshold: [.nan]")
        self._grid("wrong_date.yaml", "when: [2024-01-01]")
        for suffix in ("", ".npy", ".h5", ".csv", ".raw", ".mp4", ".parquet", ".toml"):
            (folder / f"wrong_empty{suffix}").write_bytes(b"")
            (folder / f"wrong_bytes{suffix}").write_bytes(bytes(range(256)) * 9)
        (folder / "wrong_deep.json").write_text("[" * 100_000)
        (folder / "wrong_deep.toml").write_text("name = " + "[" * 100_000)
        (folder / "wrong_list.json").write_text("[1]")
        (folder / "wrong_nan.json").write_text('{"target_step": NaN, "drafter_step": 1}')
        (folder / "wrong_long.json").write_text('{"target_step": 1, "drafter_step": 1' + "0" * 40 + "}")
        mini = Path(egptlib.models.__file__).parent / "mini"
        (folder / "wrong_cuda.toml").write_text(
            f"drafter = '{mini}/drafter'\ntarget = '{mini}/target'\ndevice = 'cuda'"
        )
        with open(folder / "wrong_huge.npy", "wb") as file:  # a header that declares 10^11 values, and none of them
            header = {"descr": "<u2", "fortran_order": False, "shape": (10**11, 4)}
            np.lib.format.write_array_header_1_0(file, header)
        self._events("wrong_none.npy", 0)

    def _datasets(self) -> None:
        entry = {"id": "one", "event_data": "seq/0.npy"}
        for name, content in (
            ("dataset", json.dumps([entry])), ("wrong_set_no_events", json.dumps([entry])),
            ("wrong_set_bare", json.dumps([entry])), ("wrong_set_empty", "[]"), ("wrong_set_object", "{}"),
            ("wrong_set_deep", "[" * 100_000), ("wrong_set_half", json.dumps([entry | {"event_data": "\ud800/0.npy"}])),
        ):  # fmt: skip
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / "EventGPT_Instruction_Subset.json").write_text(content)
        for name, count in (("dataset", 500), ("wrong_set_no_events", 0)):
            self._events(f"{name}/event_npy/seq/0.npy", count)
            for number in range(8):
                path = self.folder / name / "video/seq/0" / f"{number:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 24), (10 * number, 0, 0)).save(path)

    def _events(self, name: str, count: int) -> None:
        random = np.random.default_rng(0)
        times = np.sort(random.integers(0, 1_000_000, count))
        events = {"x": random.integers(0, 32, count), "y": random.integers(0, 24, count), "t": times,
                  "p": random.integers(0, 2, count)}  # fmt: skip
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        with open(self.folder / name, "wb") as file:
            np.save(file, np.array(events, dtype=object), allow_pickle=True)

    def _states(self, name: str, count: int) -> None:
        with HiddenStateWriter(self.folder / name, config={"pair": "test", "path": "target"}) as writer:
            for number in range(count):
                states, ids = torch.randn(2, 4, 16), torch.arange(4)
                writer.add(
                    states[0], states[1], token_ids=ids, drafter_top1=ids, overlap=torch.ones(4),
                    metadata={"scene": f"s{number}/0", "sequence": f"s{number}", "question": "q"},
                )  # fmt: skip

    def _grid(self, name: str, axes: str) -> None:
        (self.folder / name).write_text(f"notebooks: [{self.folder / 'toy.ipynb'}]\ngrid: {{{axes}}}\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        patch.setattr("typer.testing._get_command", lambda app: COMMAND)  # built once: that takes longest in a call
        patch.setenv("TQDM_DISABLE", "1")
        patch.setenv("EGPTLIB_DATA", str(made.folder / "data"))
        patch.setenv("EGPTLIB_RUNS", str(made.folder / "runs"))
        yield made


Refused = Callable[..., str]


@pytest.fixture
def refused(world: World) -> Refused:
    """refused(verb, name, *arguments) -> the one line on stderr, which holds the name. Fails on anything else."""

    def run(verb: str, name: str, *arguments: str) -> str:
        before = sorted(world.folder.rglob("*"))
        result = CliRunner().invoke(app, [*verb.split(), *arguments])
        lines = [line for line in result.stderr.splitlines() if line.strip() and "scene/s" not in line]
        told = f"egptlib {verb} {' '.join(arguments)}\n{result.output}\n{result.exception!r}"
        assert isinstance(result.exception, SystemExit), told
        counted = verb == "check" and result.exit_code == 1  # it lists problems, and how many
        assert counted or result.exit_code == 2, told
        assert name in result.output and "Traceback" not in result.output, told
        if not counted:
            assert len(lines) == 1 and lines[0].startswith("egptlib: "), told
        assert sorted(world.folder.rglob("*")) == before, "something was written"
        return result.output

    return run


def _arguments(verb: str, world: World, out: Path) -> list[str]:
    places = {path.name: path for path in world.folder.iterdir()}
    return [word.format_map({"out": out, **places}) for word in NEEDED[verb].split()]


def _with(verb: str, option: Any, value: str, world: World, out: Path) -> list[str]:
    """The verb's arguments with one value replaced, or added."""
    arguments = _arguments(verb, world, out)
    flags = [flag for flag in option.opts if flag.startswith("-")]
    if not flags:
        place = [p.name for p in VERBS[verb].params if p.param_type_name == "argument"].index(option.name)
        positions = [
            i for i, a in enumerate(arguments) if not a.startswith("-") and (i == 0 or arguments[i - 1][0] != "-")
        ]
        if len(positions) > place:
            arguments[positions[place]] = value
        else:
            arguments.insert(0, value)
        return arguments
    if flags[0] in arguments:
        arguments[arguments.index(flags[0]) + 1] = value
        return arguments
    return [*arguments, flags[0], value]


def _options(kinds: Callable[[Any], bool]) -> list[Any]:
    found = [(verb, p) for verb, command in VERBS.items() for p in command.params if p.name != "help" and kinds(p)]
    return [pytest.param(verb, option, id=f"{verb} {option.opts[0]}") for verb, option in found]


def _holds(option: Any, *types: type) -> bool:
    annotation = option.type_descriptor.annotation
    return annotation in types or getattr(annotation, "__args__", (None,))[0] in types


def _reads() -> dict[str, str]:
    return {row.strip(): kind for kind, rows in READ.items() for row in rows.split(",")}


def test_every_verb_and_every_option_has_a_row() -> None:
    assert sorted(NEEDED) == sorted(VERBS)
    told = {*_reads(), *(row.strip() for row in FREE.split(","))}
    texts = {
        f"{verb} {option.opts[0]}"
        for verb, command in VERBS.items()
        for option in command.params
        if _holds(option, str, Path) and option.name not in WRITTEN and option.name != "help"
    }
    assert texts == told and set(WRONG) == set(READ)


@pytest.mark.parametrize(("verb", "option"), _options(lambda p: _holds(p, int, float)))
def test_a_number_is_whole_finite_and_not_too_large(
    verb: str, option: Any, world: World, tmp_path: Path, refused: Refused
) -> None:
    least = option.type_descriptor.parameter_info.min
    wrong = ["nan", "many", "1" + "0" * 30, "-" + "9" * 30, *([] if least is None else [str(least - 1)])]
    for value in wrong:
        refused(verb, option.opts[0], *_with(verb, option, value, world, tmp_path / "out"))
    assert least is not None or f"{verb} {option.opts[0]}" == "make-scenes --offset-us"


@pytest.mark.parametrize(("verb", "option"), _options(lambda p: p.type_descriptor.is_choice))
def test_a_choice_is_one_of_those_named(verb: str, option: Any, world: World, tmp_path: Path, refused: Refused) -> None:
    refused(verb, option.opts[0], *_with(verb, option, "other", world, tmp_path / "out"))


@pytest.mark.parametrize(("verb", "option", "name"), [
    pytest.param(verb, option, name, id=f"{row} {name}")
    for row, kind in _reads().items() for name in WRONG[kind]
    for verb, _, last in [row.rpartition(" ")] for option in VERBS[verb].params if option.opts[0] == last
])  # fmt: skip
def test_what_is_read_and_wrong_is_named(
    verb: str, option: Any, name: str, world: World, tmp_path: Path, refused: Refused
) -> None:
    # A pair is called as its file, without the ending.
    refused(verb, f"wrong_{name.removesuffix('.toml')}", *_with(verb, option, f"wrong_{name}", world, tmp_path / "out"))


@pytest.fixture
def as_nobody(world: World) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Nobody may read `wrong_locked` and `wrong_locked_folder`, or write anywhere here; root may, so it steps back."""
    for path in (world.folder, *world.folder.parents):
        if path == Path(tempfile.gettempdir()) or path.stat().st_uid != os.geteuid():
            break
        path.chmod(0o755)
    locked, folder = world.folder / "wrong_locked", world.folder / "wrong_locked_folder"
    locked.write_bytes(b"x")
    locked.chmod(0)
    folder.mkdir(mode=0)

    @contextmanager
    def stepping_back() -> Iterator[None]:
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield
        os.seteuid(user)

    yield stepping_back
    if os.getuid() == 0:
        os.seteuid(0)
    locked.unlink()
    folder.rmdir()


@pytest.mark.parametrize("row", sorted(row for row, kind in _reads().items() if kind != "name"))
def test_what_may_not_be_read_is_named(row: str, world: World, as_nobody: Any, refused: Refused) -> None:
    (verb, _, last), kind, out = row.rpartition(" "), _reads()[row], Path(tempfile.gettempdir(), "out")
    option = next(option for option in VERBS[verb].params if option.opts[0] == last)
    of_folders = "folder" not in WRONG[kind] or kind in ("dataset", "states", "training", "checkout")
    name = "wrong_locked_folder" if of_folders else "wrong_locked"
    # What a verb imports may be root's alone, so it is read before.
    CliRunner().invoke(app, [*verb.split(), *_with(verb, option, "wrong_missing", world, out)])
    with as_nobody():
        refused(verb, name, *_with(verb, option, name, world, out))


@pytest.mark.parametrize(("verb", "option"), _options(lambda p: p.name in WRITTEN))
def test_where_nothing_may_be_written_is_named(
    verb: str, option: Any, world: World, as_nobody: Any, refused: Refused
) -> None:
    arguments = _with(verb, option, str(world.folder / "out"), world, Path(tempfile.gettempdir(), "out"))
    with as_nobody():
        refused(verb, world.folder.name, *arguments)


@pytest.mark.parametrize(("verb", "option"), _options(lambda p: p.name in WRITTEN))
def test_what_cannot_be_written_is_named_before_anything_is_done(
    verb: str, option: Any, world: World, tmp_path: Path, refused: Refused
) -> None:
    refused(verb, "wrong_empty", *_with(verb, option, "wrong_empty/out", world, tmp_path / "out"))
