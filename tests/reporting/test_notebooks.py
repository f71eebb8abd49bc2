"""Parameters are checked before a kernel starts; runs are skipped, replaced and reported as they should."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from typer.testing import CliRunner

from egptlib._paths import write_json
from egptlib.cli._app import app
from egptlib.reporting import Run, _notebooks, check_runs, collect
from egptlib.reporting._kernels import _DRIVERS
from egptlib.reporting._notebooks import Job, convert, find_notebooks, notebook_parameters, plan
from egptlib.reporting._runner import Limits, Outcome, _host, describe_error, run_notebooks

from .conftest import NotebookMaker


def test_parameters_are_those_of_the_tagged_cell(make_notebook: NotebookMaker) -> None:
    path = make_notebook("01_toy", "num_scenes = 99", parameters='a = 1\nb: float = -2.5  # help\nc = ["x"]\nd = None')
    assert notebook_parameters(path) == {"a": 1, "b": -2.5, "c": ["x"], "d": None}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1\nb = a + 1", "parameter 'b': expected a constant, found 'a \\+ 1'"),
        ("import os", "expected NAME = CONSTANT, found 'import os'"),
        ("a = b = 1", "expected NAME = CONSTANT"),
    ],
)
def test_parameters_are_constants(make_notebook: NotebookMaker, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        notebook_parameters(make_notebook("01_toy", parameters=source))


def test_a_file_that_is_no_notebook_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ipynb"
    for content in ("{", "[]", '{"worksheets": []}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"x\.ipynb: not a notebook"):
            notebook_parameters(path)


def test_an_unknown_parameter_names_itself_and_the_known_ones(make_notebook: NotebookMaker) -> None:
    notebooks = [make_notebook("01_toy"), make_notebook("02_other", parameters="gamma = 5\nout = ''")]
    with pytest.raises(ValueError, match=r"unknown parameter 'num_scene': .*gamma, num_scenes, rate, smoke, split"):
        plan(notebooks, {"num_scene": 3})
    first, second = plan(notebooks, {"gamma": "7", "num_scenes": 2}, {"smoke": True, "pair": "mini"})
    assert first.parameters == {"dataset": "streets", "split": "test", "num_scenes": 2, "rate": 0.5, "smoke": True}
    assert second.parameters == {"gamma": 7}
    with pytest.raises(ValueError, match="unknown parameter 'out'"):  # the run folder is the runner's business
        plan(notebooks, {"out": "x"})


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        ("true", False, True), ("No", True, False), ("0", True, False), ("12", 1, 12), ("1e-3", 0.5, 1e-3),
        (3, 0.5, 3.0), ("[0.8, 0.9]", [0.5], [0.8, 0.9]), ("12", "x", "12"), ("anything", None, "anything"),
    ],
)  # fmt: skip
def test_text_takes_the_type_of_the_default(value: Any, default: Any, expected: Any) -> None:
    result = convert("p", value, default)
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "default"), [("maybe", False), ("1.5", 1), ("x", 0.5), (True, 1), (1, "x"), ("{}", [1])]
)
def test_a_value_of_the_wrong_type_is_named(value: Any, default: Any) -> None:
    with pytest.raises(ValueError, match=f"parameter 'p': expected {type(default).__name__}"):
        convert("p", value, default)


def test_dataset_is_built_in_or_an_existing_folder(
    make_notebook: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = make_notebook("01_toy")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert plan([notebook], {"dataset": "clips"})[0].parameters["dataset"] == "clips"
    job = plan([notebook], {"dataset": "mine"})[0]
    assert job.parameters["dataset"] == str(tmp_path / "mine")
    assert job.name.startswith("01_toy-mine-")
    with pytest.raises(FileNotFoundError, match="missing: no such dataset folder, and not one of streets"):
        plan([notebook], {"dataset": "missing"})


def test_a_pair_file_becomes_absolute_and_what_it_says_counts(
    make_notebook: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = make_notebook("01_toy", parameters='pair = "mini"')
    (tmp_path / "my_pair.toml").write_text('device = "cpu"')
    monkeypatch.chdir(tmp_path)
    job = plan([notebook], {"pair": "my_pair.toml"})[0]
    assert job.parameters == {"pair": str(tmp_path / "my_pair.toml")}
    name = job.name
    (tmp_path / "my_pair.toml").write_text('device = "cuda"')
    assert job.name != name
    with pytest.raises(FileNotFoundError, match=r"pair 'none\.toml': no such file: "):
        plan([notebook], {"pair": "none.toml"})


def test_paths_are_found_from_the_data_folder_too_and_wrong_ones_before_a_run(
    make_notebook: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = make_notebook("01_toy", parameters='dataset = "streets"\nadapter = ""')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EGPTLIB_DATA", str(tmp_path / "data"))
    for folder in ("data/my_data", "L4"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("my_data", "data/my_data"):
        job = plan([notebook], {"dataset": name, "adapter": "L4"})[0]
        assert job.parameters == {"dataset": str(tmp_path / "data/my_data"), "adapter": str(tmp_path / "L4")}
    several = plan([notebook], {"adapter": "mini-E3, midi-E3S, L4"})[0].parameters["adapter"]
    assert several == f"mini-E3, midi-E3S, {tmp_path / 'L4'}"
    looked = f"looked for {tmp_path}/none and .*{tmp_path}/data/none"
    with pytest.raises(FileNotFoundError, match=f"none: no such dataset folder.*{looked}"):
        plan([notebook], {"dataset": "none"})
    with pytest.raises(FileNotFoundError, match=f"which parameter 'adapter' names; {looked}"):
        plan([notebook], {"adapter": "none"})


def test_the_name_changes_with_what_the_result_depends_on(
    make_notebook: NotebookMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = make_notebook("01_toy", "x = 1")
    job = plan([notebook])[0]
    names = {job.name, plan([notebook], {"num_scenes": 5})[0].name}
    content = nbformat.read(notebook, as_version=4)
    content.cells[-1].outputs = [nbformat.v4.new_output("stream", text="hello")]
    nbformat.write(content, notebook)
    assert Job(notebook, job.parameters).name == job.name  # outputs and ids are no part of it
    content.cells[-1].source = "x = 2"
    nbformat.write(content, notebook)
    names.add(Job(notebook, job.parameters).name)
    monkeypatch.setattr(_notebooks, "_library_digest", lambda: "another library")
    names.add(Job(notebook, job.parameters).name)
    assert len(names) == 4 and all(name.startswith("01_toy-streets-") for name in names)


def test_notebooks_are_found_by_number_name_and_path(make_notebook: NotebookMaker) -> None:
    one, two = make_notebook("01_toy"), make_notebook("02_other")
    folder = one.parent
    scratch = make_notebook("scratch")
    assert find_notebooks((), folder) == [one, two]
    assert find_notebooks(("02", "1", "01_toy", str(scratch)), folder) == [two, one, one, scratch]
    with pytest.raises(FileNotFoundError, match=r"notebook '03': .*01_toy, 02_other"):
        find_notebooks(("03",), folder)


DONE = {"state": "done", "notebook": "01_toy", "seconds": 1.0}


class FakeChild:
    """Stands in for the child process: writes the status it is given, or none, and counts its calls."""

    def __init__(self, status: dict[str, Any] | None) -> None:
        self.status, self.calls = status, 0

    def __call__(self, command: list[str], *, env: dict[str, str], stdout: Any, **_: Any) -> Any:
        self.calls += 1
        assert env["EGPT_HEADLESS"] == "1"
        folder = Path(command[-2])
        if self.status is not None:
            write_json(folder / "status.json", self.status)
        else:
            stdout.write(b"working\nKilled by the machine\n")
        return subprocess.CompletedProcess(command, 0 if self.status else -9)


def test_a_run_appears_whole_and_is_skipped_when_done(
    make_notebook: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = FakeChild(DONE)
    monkeypatch.setattr("egptlib.reporting._runner.subprocess.run", child)
    jobs, root, seen = plan([make_notebook("01_toy")]), tmp_path / "runs", list[Outcome]()
    for force in (False, False, True):
        seen += run_notebooks(jobs, root, force=force)
    assert [outcome.state for outcome in seen] == ["done", "skipped", "done"] and child.calls == 2
    assert os.listdir(root) == [jobs[0].name]
    assert json.loads((root / jobs[0].name / "params.json").read_text()) == dict(jobs[0].parameters)


def test_a_run_tells_when_its_files_are_no_longer_those_it_left(
    make_notebook: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any flipped bit of any file, a file that is gone, and one that is cut."""

    def child(command: list[str], **_: Any) -> Any:
        run = Run(Path(command[-2]), "01_toy", tmp_path)
        run.save_results(rate=0.25)
        run.save_table("table", pd.DataFrame({"x": [1.5]}), show=False)
        write_json(run.folder / "status.json", DONE)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("egptlib.reporting._runner.subprocess.run", child)
    (outcome,) = run_notebooks(plan([make_notebook("01_toy")]), tmp_path / "runs")
    run = outcome.folder
    assert check_runs(run) == check_runs(run.parent) == []
    paths = sorted(path for path in run.rglob("*") if path.is_file())
    names = {"log.txt", "metrics.json", "params.json", "status.json", "table.csv"}
    assert {path.name for path in paths} == names
    chance = random.Random(6)
    for path in paths * 5:
        whole = path.read_bytes()
        if whole:
            bit = chance.randrange(8 * len(whole))
            path.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
            (problem,) = check_runs(run.parent)
            assert path.name in problem or path.name == "status.json"
            with pytest.warns(UserWarning, match="is left out"):
                assert len(collect(run.parent)) == 0
        path.write_bytes(whole)
    assert len(collect(run.parent)) == 1
    (run / "table.csv").unlink()
    result = CliRunner().invoke(app, ["check", str(run.parent)])
    assert result.exit_code == 1 and "table.csv: no longer there" in result.output


def test_a_process_that_dies_is_a_failed_run_and_is_tried_again(
    make_notebook: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, root = plan([make_notebook("01_toy")]), tmp_path / "runs"
    monkeypatch.setattr("egptlib.reporting._runner.subprocess.run", FakeChild(None))
    outcome = run_notebooks(jobs, root)[0]
    assert outcome.state == "failed"
    assert outcome.error == "01_toy: process ended with code -9: Killed by the machine"
    monkeypatch.setattr("egptlib.reporting._runner.subprocess.run", FakeChild(DONE))
    assert run_notebooks(jobs, root)[0].state == "done"


def test_a_notebook_that_succeeded_and_has_no_page_stays_and_is_named(
    make_notebook: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What papermill wrote is cut short; then the folder of the report is somebody's own."""

    def child(command: list[str], **_: Any) -> Any:
        name, folder = Path(command[-3]).stem, Path(command[-2])
        text = Path(command[-3]).read_text()
        (folder / "out.ipynb").write_text(text[: len(text) // 2] if name == "02_cut" else text)
        write_json(folder / "status.json", DONE | {"notebook": name})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("egptlib.reporting._runner.subprocess.run", child)
    notebooks = [str(make_notebook(name)) for name in ("01_toy", "02_cut")]
    root = tmp_path / "runs"

    def verb(*words: str) -> Any:
        return CliRunner().invoke(app, [*words])

    first = verb("run", *notebooks, "--out", str(root))
    assert first.exit_code == 0 and first.stdout.count(": done in") == 2
    (cut,), (toy,) = root.glob("02_cut*"), root.glob("01_toy*")
    (line,) = [line for line in first.stderr.splitlines() if "left out" in line]
    assert str(cut) in line and "out.ipynb" in line
    pages = {path.stem for path in (root / "report").glob("*.html")}
    assert pages == {"index", "glossary", toy.name} and cut.name in (root / "report/index.html").read_text()
    listed = verb("runs", "list", "--root", str(root))
    assert cut.name in listed.stdout and toy.name in listed.stdout and check_runs(root) == []

    shutil.rmtree(root / "report")
    (root / "report").write_text("mine")
    again = verb("run", *notebooks, "--out", str(root))
    assert again.exit_code == 0 and again.stdout.count("done earlier") == 2
    assert "egptlib: no report: " in again.stderr and str(root / "report") in again.stderr
    assert cut.is_dir() and (root / "report").read_text() == "mine"


def test_what_runs_into_a_folder_is_ended_and_not_who_waits_for_it(tmp_path: Path) -> None:
    """The runner holds the log open as well, while a worker of its own waits for the notebook."""
    waits = """
import psutil, subprocess, sys
from pathlib import Path
from egptlib.reporting._runner import _end
partial = Path(sys.argv[1])
with open(partial / "log.txt", "wb") as log:
    notebook = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=log)
    _end(partial)
    sys.exit(psutil.pid_exists(notebook.pid))
"""
    assert subprocess.run([sys.executable, "-c", waits, str(tmp_path.resolve())], check=False).returncode == 0


def test_what_a_killed_runner_left_is_removed(
    make_notebook: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, root = plan([make_notebook("01_toy")]), tmp_path / "runs"
    with subprocess.Popen(["true"]) as ended:
        pass
    abandoned, in_use = (root / f".{jobs[0].name}.{_host()}.{pid}.partial" for pid in (ended.pid, os.getppid()))
    abandoned.mkdir(parents=True)
    in_use.mkdir()
    monkeypatch.setattr("egptlib.reporting._runner.subprocess.run", FakeChild(DONE))
    run_notebooks(jobs, root)
    assert not abandoned.exists() and in_use.exists()


def test_an_error_is_one_line() -> None:
    status = {"notebook": "01_toy", "error": {"cell": 3, "name": "KeyError", "value": "'x'\nmore"}}
    assert describe_error(status) == "01_toy, cell 3: KeyError: 'x'"


@pytest.mark.slow
def test_real_kernels_one_good_one_failing_one_dead_one_slow(make_notebook: NotebookMaker, tmp_path: Path) -> None:
    save = "from egptlib.reporting import open_run\nrun = open_run(out, '01_good')\n"
    check = "import os\nassert os.environ['EGPT_HEADLESS'] == '1'\nrun.save_results(scenes=num_scenes, rate=rate)"
    forked = sys.platform == "linux" and not any(Path(driver).exists() for driver in _DRIVERS)
    imported = f"import sys\nassert ('torch' in sys.modules) == {forked}\n"
    ended = tmp_path / "ended"  # written when the kernel ends, which waits for what is in its group before
    ends = "import atexit, psutil\ngroup = [os.getpgid(child.pid) for child in psutil.Process().children()]\n"
    ends += f"assert os.getpgrp() not in group\natexit.register(open({str(ended)!r}, 'w').write, 'by itself')\n"
    ends += f"class Left: pass\nleft = Left()\nleft.me, left.file = left, open({str(tmp_path / 'left')!r}, 'w')\n"
    ends += "left.file.write('open')"
    jobs = plan(
        [
            make_notebook("01_good", imported + save, check, ends),
            make_notebook("02_failing", "x = 1", "{}['missing']"),
            make_notebook("03_dead", "import os\nos._exit(3)"),
            make_notebook("04_slow", "import time\ntime.sleep(60)"),
        ],
        {"num_scenes": "6"},
    )
    outcomes = run_notebooks(jobs, tmp_path / "runs", limits=Limits(15))
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "failed", "failed"]
    good, failing, dead, slow = outcomes
    assert ended.read_text() == "by itself" and (tmp_path / "left").read_text() == "open"
    assert json.loads((good.folder / "metrics.json").read_text()) == {"scenes": 6, "rate": 0.5}
    assert (good.folder / "environment.json").is_file() and (good.folder / "out.ipynb").is_file()
    assert failing.error == "02_failing, cell 4: KeyError: 'missing'"  # as counted in the notebook, from 1
    assert (failing.folder / "out.ipynb").is_file()
    assert dead.error is not None and "DeadKernelError" in dead.error
    assert slow.error is not None and "CellTimeoutError" in slow.error
    assert not list((tmp_path / "runs").glob(".*"))


@pytest.mark.slow
def test_a_kernel_that_cannot_be_forked_starts_as_any_other(make_notebook: NotebookMaker, tmp_path: Path) -> None:
    toy = make_notebook("01_toy", "import sys\nassert 'torch' not in sys.modules")
    write_json(tmp_path / "params.json", {})
    command = [sys.executable, "-m", "egptlib.reporting._execute", str(toy), str(tmp_path), "60"]
    subprocess.run(command, env=os.environ | {"EGPTLIB_KERNELS": str(tmp_path / "nobody")}, check=True)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "done"
