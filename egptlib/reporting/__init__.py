"""Run folders, figures, notebooks through papermill, and reports that open offline."""

from egptlib.reporting._explorers import (
    AnswerPair,
    browse_samples,
    compare_adapters,
    explore,
    explore_acceptance,
    scrub_timeline,
)
from egptlib.reporting._runs import Run, collect, describe_environment, is_headless, open_run, show_table
from egptlib.reporting._style import (
    DOUBLE_COLUMN,
    DRAFTER_COLOR,
    NEUTRAL_COLOR,
    PALETTE,
    SINGLE_COLUMN,
    TARGET_COLOR,
    apply_style,
)

__all__ = [
    "DOUBLE_COLUMN",
    "DRAFTER_COLOR",
    "NEUTRAL_COLOR",
    "PALETTE",
    "SINGLE_COLUMN",
    "TARGET_COLOR",
    "AnswerPair",
    "Run",
    "apply_style",
    "browse_samples",
    "collect",
    "compare_adapters",
    "describe_environment",
    "explore",
    "explore_acceptance",
    "is_headless",
    "open_run",
    "scrub_timeline",
    "show_table",
]
