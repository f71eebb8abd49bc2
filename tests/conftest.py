"""What all tests share: the folder of golden files, a headless matplotlib, checked tensor shapes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from egptlib.reporting._runner import Outcome

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


@pytest.fixture(scope="session")
def smoke_outcomes(tmp_path_factory: pytest.TempPathFactory) -> "list[Outcome]":
    """All eight notebooks, run in smoke mode on two sequences of streets; 04 with two more thresholds."""
    from egptlib.reporting._notebooks import find_notebooks, plan
    from egptlib.reporting._runner import Limits, run_notebooks
    from egptlib.scenes import open_scenes

    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGPTLIB_DATA", str(folder / "data"))
        open_scenes("streets", num_sequences=2)
        jobs = plan(find_notebooks(), {"smoke": True})
        for threshold in (0.1, 0.5):
            jobs += plan(find_notebooks(["04"]), {"smoke": True, "threshold": threshold})
        return run_notebooks(jobs, folder / "runs", limits=Limits(600))


@pytest.fixture(scope="session")
def one_street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root (for EGPTLIB_DATA) with one sequence of streets, a second long."""
    from egptlib.scenes.streets._make import make_streets

    root = tmp_path_factory.mktemp("data")
    make_streets(root / "streets" / "streets_test_1s", "test", 1, seconds=1.0, workers=1)
    return root
