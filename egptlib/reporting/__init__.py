"""Run folders, figures, notebooks through papermill, and reports that open offline."""

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
    "Run",
    "apply_style",
    "collect",
    "describe_environment",
    "is_headless",
    "open_run",
    "show_table",
]
