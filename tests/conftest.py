"""What all tests share: the folder of golden files, a headless matplotlib, checked tensor shapes."""

import os
from pathlib import Path

import pytest

# Before anything imports them: figures without a screen, no hub, shapes and dtypes of `metrics` checked at each call.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

install_import_hook("egptlib.metrics", "beartype.beartype")

_REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden files and samples: EGPTLIB_SHARED, else ../shared. Skips where it is absent."""
    folder = Path(os.environ.get("EGPTLIB_SHARED", _REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"golden files not found: {folder}/golden (set EGPTLIB_SHARED)")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout these tests belong to."""
    return _REPOSITORY
