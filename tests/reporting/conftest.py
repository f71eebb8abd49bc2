"""Small notebooks to run and to export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

PARAMETERS = 'dataset = "streets"\nsplit = "test"  # train or test\nnum_scenes = 4\nrate = 0.5\nout = ""\nsmoke = False'

NotebookMaker = Callable[..., Path]


def _cell(kind: str, source: str, tags: tuple[str, ...] = (), **fields: Any) -> nbformat.NotebookNode:
    make = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
    return make(source, metadata={"tags": list(tags)} if tags else {}, **fields)


@pytest.fixture
def make_notebook(tmp_path: Path) -> NotebookMaker:
    """make_notebook(name, *code cells, parameters=...) -> path of a notebook in tmp_path/notebooks."""

    def make(name: str, *code: str, parameters: str = PARAMETERS) -> Path:
        cells = [_cell("markdown", f"# Title of {name}"), _cell("code", parameters, ("parameters",))]
        cells += [_cell("code", source) for source in code]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        return path

    return make
