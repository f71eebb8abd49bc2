"""Every notebook follows the house rules, and runs from its first cell to its last in smoke mode."""

import ast
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

from egptlib.reporting._notebooks import notebook_parameters

if TYPE_CHECKING:
    from egptlib.reporting._runner import Outcome

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
COMMON = {"dataset", "split", "pair", "num_scenes", "num_questions", "max_new_tokens", "out", "smoke"}

each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_eight_in_the_order_of_the_readme() -> None:
    assert [notebook.stem[:3] for notebook in NOTEBOOKS] == [f"0{n}_" for n in range(1, 9)]
    for readme in (NOTEBOOKS[0].parent / "README.md", NOTEBOOKS[0].parents[1] / "README.md"):
        rows = re.findall(r"^\| \W*(0\d_\w+)", readme.read_text(encoding="utf-8"), re.MULTILINE)
        assert rows == [notebook.stem for notebook in NOTEBOOKS]


@each
def test_parameters_are_the_common_ones(notebook: Path) -> None:
    parameters = notebook_parameters(notebook)
    assert set(parameters) >= COMMON
    expected = {"dataset": "streets", "split": "test", "pair": "mini", "out": "", "smoke": False}
    assert {name: parameters[name] for name in expected} == expected


@each
def test_it_says_what_it_asks_needs_takes_and_found(notebook: Path) -> None:
    cells = nbformat.read(notebook, as_version=4).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert all(word in cells[0].source for word in ("**Asks", "**Needs", "**Takes"))
    assert cells[-2].source.strip() == "## Found" and "Markdown(" in cells[-1].source  # computed, not typed


@each
def test_it_only_calls_the_library(notebook: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    assert content.metadata.kernelspec.name == "python3"
    for cell in content.cells:
        if cell.cell_type != "code":
            continue
        assert not cell.outputs and cell.execution_count is None
        assert "sys.path" not in cell.source and not re.search(r"from egptlib\S*\._", cell.source)
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                assert (node.end_lineno or 0) - node.lineno < 4


@pytest.mark.slow
def test_all_run_in_smoke_mode(smoke_outcomes: "list[Outcome]") -> None:
    assert [outcome.error for outcome in smoke_outcomes] == [None] * (len(NOTEBOOKS) + 2)
    for outcome in smoke_outcomes:
        assert json.loads((outcome.folder / "metrics.json").read_text())
        assert list((outcome.folder / "figures").glob("*.png"))
        executed = nbformat.read(outcome.folder / "out.ipynb", as_version=4)
        streams = [o for c in executed.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]
        assert not [o.text for o in streams if o.name == "stderr"]
