"""Working copies of the notebooks: fresh where nobody edited them, kept where somebody did, reset without a loss."""

from pathlib import Path

import nbformat
import pytest

from egptlib.reporting import _lab, compare_copies, refresh_copies, reset_copies

from .conftest import NotebookMaker


@pytest.fixture
def committed(tmp_path: Path, make_notebook: NotebookMaker, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two committed notebooks and their start page."""
    for name in ("01_a", "02_b"):
        make_notebook(name, "x = 1")
    (tmp_path / "notebooks/README.md").write_text("# Start")
    monkeypatch.setattr(_lab, "find_notebooks", lambda names=(): _found(tmp_path / "notebooks", names))
    monkeypatch.setattr(_lab, "notebook_folder", lambda: tmp_path / "notebooks")
    return tmp_path / "notebooks"


def _found(folder: Path, names: object) -> list[Path]:
    assert isinstance(names, list | tuple)
    return [path for path in sorted(folder.glob("*.ipynb")) if not names or path.stem[:2] in names]


def edit(path: Path, source: str) -> None:
    content = nbformat.read(path, as_version=4)
    content.cells[-1].source = source
    nbformat.write(content, path)


def test_an_unedited_copy_follows_and_an_edited_one_stays(committed: Path, tmp_path: Path) -> None:
    lab, before = tmp_path / "lab", (committed / "01_a.ipynb").read_bytes()
    assert refresh_copies(lab) == [] and (lab / "01_a.ipynb").read_bytes() == before
    assert (lab / "README.md").read_text() == "# Start" and compare_copies(lab) == ""
    edit(lab / "01_a.ipynb", "x = 3")
    for name in ("01_a", "02_b"):
        edit(committed / f"{name}.ipynb", "x = 2")
    assert refresh_copies(lab) == refresh_copies(lab) == ["01_a"]
    assert "x = 3" in (lab / "01_a.ipynb").read_text() and "x = 2" in (lab / "02_b.ipynb").read_text()
    shown = compare_copies(lab).splitlines()
    assert [line for line in shown if line[0] in "+-"][2:] == ["-x = 2", "+x = 3"]


def test_a_reset_takes_the_committed_one_and_keeps_the_edit(committed: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    refresh_copies(lab)
    for source in ("x = 3", "x = 4"):
        edit(lab / "01_a.ipynb", source)
        reset_copies(lab, ["01"])
    assert [path.name for path in sorted((lab / "old").iterdir())] == ["01_a-1.ipynb", "01_a-2.ipynb"]
    assert "x = 4" in (lab / "old/01_a-2.ipynb").read_text()
    assert refresh_copies(lab) == [] and compare_copies(lab) == ""
    assert reset_copies(lab) == []


def test_outputs_are_no_edit(committed: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    refresh_copies(lab)
    content = nbformat.read(lab / "01_a.ipynb", as_version=4)
    content.cells[-1].outputs = [nbformat.v4.new_output("stream", text="1")]
    nbformat.write(content, lab / "01_a.ipynb")
    assert refresh_copies(lab) == [] and "stream" in (lab / "01_a.ipynb").read_text()
