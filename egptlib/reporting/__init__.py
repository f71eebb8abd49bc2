"""Run folders, figures, notebooks through papermill, and reports that open offline."""

from typing import TYPE_CHECKING, Any

from egptlib.reporting._lab import lab_command
from egptlib.reporting._notebooks import Job, find_notebooks, plan
from egptlib.reporting._paper import write_paper
from egptlib.reporting._runner import Outcome, run_notebooks
from egptlib.reporting._runs import (
    Run,
    check_runs,
    collect,
    default_root,
    describe_environment,
    is_headless,
    open_run,
    read_status,
    show_table,
)
from egptlib.reporting._stars import compare_runs, find_run, overview, set_star
from egptlib.reporting._sweep import differing, plan_sweep, read_grid

if TYPE_CHECKING:  # nbconvert, which makes its pages, takes more than a second to import
    from egptlib.reporting._html import write_report

__all__ = [
    "Job",
    "Outcome",
    "Run",
    "check_runs",
    "collect",
    "compare_runs",
    "default_root",
    "describe_environment",
    "differing",
    "find_notebooks",
    "find_run",
    "is_headless",
    "lab_command",
    "open_run",
    "overview",
    "plan",
    "plan_sweep",
    "read_grid",
    "read_status",
    "run_notebooks",
    "set_star",
    "show_table",
    "write_paper",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name != "write_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from egptlib.reporting._html import write_report

    return write_report
