"""A run by hand that is kept: a run as any other, from the notebook as it was saved and ran."""

import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import IPython  # noqa: F401  (a kernel has it)
import nbformat
import pytest

from egptlib.reporting import Run, _keep, check_runs, collect, find_run, open_run, write_report

from .conftest import NotebookMaker

CODE = ("run = open_run(out, '04_x')", "run.save_results(a=1)", "run.keep('mine')")


class Shell(SimpleNamespace):
    """What is used of IPython's: names, and what ran."""

    def run(self, path: Path, order: list[int], saved: int) -> None:
        """As if cells had run in this order, of which the first `saved` are in the file with their outputs."""
        content = nbformat.read(path, as_version=4)
        code = [cell for cell in content.cells if cell.cell_type == "code"]
        for count, place in enumerate(order, 1):
            self.history_manager.input_hist_raw.append(code[place].source)
            if count <= saved:
                code[place].execution_count = count
                code[place].outputs = [nbformat.v4.new_output("stream", text=f"said by {place}")]
        nbformat.write(content, path)


@pytest.fixture
def opened(tmp_path: Path, make_notebook: NotebookMaker, monkeypatch: pytest.MonkeyPatch) -> tuple[Shell, Path]:
    path = make_notebook("04_x", *CODE)
    names: dict[str, Any] = {"dataset": "streets", "split": "test", "num_scenes": 7, "rate": 0.25, "smoke": False}
    shell = Shell(user_ns=names | {"out": "", "_": 1}, history_manager=SimpleNamespace(input_hist_raw=[""]))
    monkeypatch.setenv("EGPTLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(_keep, "_WAIT_SECONDS", 0.0)
    return shell, path


def begin(shell: Shell) -> Run:
    run = open_run("", "04_x")
    run.save_results(a=1)
    shell.user_ns["num_scenes"] = 99  # a loop may use the name again
    return run


def test_it_is_listed_with_its_parameters_and_has_a_page(opened: tuple[Shell, Path], tmp_path: Path) -> None:
    shell, path = opened
    stale = tmp_path / "runs/interactive/04_x/old.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("left by an earlier run")
    os.utime(stale, (1, 1))
    run = begin(shell)
    shell.run(path, [0, 1, 2, 3], saved=3)
    kept = run.keep("mine")
    assert kept == tmp_path / "runs/mine" and not (kept / "old.csv").exists()
    row = collect(tmp_path / "runs").iloc[0]
    assert (row["run"], row["state"], row["num_scenes"], row["rate"], row["a"]) == ("mine", "done", 7, 0.25, 1)
    assert find_run(tmp_path / "runs", "mine") == kept and not check_runs(kept)
    page = write_report(tmp_path / "runs").with_name("mine.html").read_text()
    assert "said by 2" in page and "all cells, in their order" in page and "run.keep" not in page
    index = write_report(tmp_path / "runs").read_text()
    assert " · kept as mine</p>" in index  # a card by which it is found
    with pytest.raises(FileExistsError, match="keep the run under another name"):
        run.keep("mine")
    with pytest.raises(FileExistsError):
        run.keep("report")
    assert not list((tmp_path / "runs").glob(".*"))


def test_what_did_not_run_as_it_stands_is_told(opened: tuple[Shell, Path]) -> None:
    shell, path = opened
    run = begin(shell)
    shell.run(path, [0, 2, 1, 3], saved=3)
    path.write_text(path.read_text().replace("rate = 0.5", "rate = 0.75"))  # edited after it ran
    kept = run.keep("mine")
    status = json.loads((kept / "status.json").read_text())
    assert status["by hand"] == "not in the order of the cells; not run as they stand: cells 2"
    assert not nbformat.read(kept / "out.ipynb", as_version=4).cells[1].outputs


def test_a_notebook_that_was_not_saved_is_refused(opened: tuple[Shell, Path]) -> None:
    shell, path = opened
    run = begin(shell)
    shell.run(path, [0, 1, 2, 3], saved=2)
    with pytest.raises(ValueError, match=r"save the notebook \(Ctrl\+S\)"):
        run.keep("mine")


def test_what_warns_is_a_line_of_the_notebook(
    opened: tuple[Shell, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JupyterLab shows what goes to stderr on the red of errors."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    open_run("", "04_x")
    warnings.showwarning("few scenes", UserWarning, "file.py", 1)
    assert tuple(capsys.readouterr()) == ("note: few scenes\n", "")


def test_only_a_run_by_hand_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only a run by hand"):
        open_run(str(tmp_path / "run"), "04_x").keep("mine")
