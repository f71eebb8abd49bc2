"""The ten lines of the documentation run as they stand, and answer what they ask."""

import re
from pathlib import Path

import pytest
import yaml

from egptlib.reporting._notebooks import find_notebooks, notebook_parameters


def _block(repository: Path, language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", (repository / "docs/ten_lines.md").read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_ten_lines_of_a_notebook(repository: Path, one_street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGPTLIB_DATA", str(one_street))
    names: dict[str, object] = {}
    code = _block(repository, "python")
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(compile(code, "ten_lines.md", "exec"), names)
    passes = names["passes"]
    assert isinstance(passes, dict) and sum(passes["gamma 8"]) <= sum(passes["gamma 2"])


def test_the_grid_names_parameters_that_the_notebook_has(repository: Path) -> None:
    grid = yaml.safe_load(_block(repository, "yaml"))
    parameters = notebook_parameters(find_notebooks([str(grid["notebooks"][0])])[0])
    assert set(grid["grid"]) | set(grid["parameters"]) <= set(parameters)
