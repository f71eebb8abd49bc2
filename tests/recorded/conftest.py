"""The recorded result files, where they are given, and the figures they must give."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def recorded(shared: Path) -> Path:
    folder = shared / "recorded"
    if not folder.is_dir():
        pytest.skip(f"recorded runs not found: {folder}")
    return folder


@pytest.fixture(scope="session")
def expected(recorded: Path) -> dict[str, Any]:
    return json.loads((recorded / "expected_aggregates.json").read_text())
