"""Bars under `egptlib run`: their newest line is in a file, and the line of the terminal has cell and bar."""

from pathlib import Path

import pytest

from egptlib._terminal import progress
from egptlib.reporting._runner import BAR, CELL, running_notebooks


def test_a_bar_is_shown_behind_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".04_feature_acceptance-streets-0123.host.1.partial"
    folder.mkdir()
    monkeypatch.setenv("EGPT_PROGRESS", str(folder / BAR))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    (folder / CELL).write_text("5 of 23")
    assert running_notebooks(tmp_path) == ["04_feature_acceptance, cell 5 of 23"]
    with progress(total=10, desc="extract", mininterval=0) as bar:
        bar.update(4)
        (line,) = running_notebooks(tmp_path)
        assert line.startswith("04_feature_acceptance, cell 5 of 23: extract:  40%|") and "4/10" in line
