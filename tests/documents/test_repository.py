"""This repository's own papers and documents pass every check."""

from pathlib import Path

import pytest

from egptlib._paths import project_root
from egptlib.documents import read_bibliography
from egptlib.documents._bibliography import check_bibliography


@pytest.fixture(scope="module")
def root() -> Path:
    found = project_root()
    assert found is not None
    return found


def test_the_bibliography_is_whole(root: Path) -> None:
    entries = read_bibliography(root / "papers" / "references.bib")
    assert check_bibliography(entries) == []
    assert len(entries) >= 99
