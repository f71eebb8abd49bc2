"""Verbs of the reporting room: run, report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from egptlib.cli._app import app, given

if TYPE_CHECKING:
    from egptlib.reporting._notebooks import Outcome


@app.command()
def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="Numbers, names or paths; all when left out.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="streets, clips, or a folder; may be repeated.")] = None,
    pair: Annotated[str | None, typer.Option(help="mini, or eventgpt-videollava.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="May be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for runs and report; default: runs.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few scenes and tokens, to see that all runs.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run again what is done already.")] = False,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds one cell may take.")] = 1800,
) -> None:
    """Execute notebooks, each in a process and a run folder of its own, and write the report.

    A run that is done is skipped; it counts as another one when a parameter, the notebook or the library differs.
    """
    from egptlib.reporting._html import write_report
    from egptlib.reporting._notebooks import find_notebooks, plan, run_notebooks
    from egptlib.reporting._runs import default_root

    assigned = dict(_assignment(text) for text in parameter or ())
    optional: dict[str, Any] = {"smoke": smoke} | given(pair=pair)
    found = find_notebooks(notebooks or ())
    datasets: list[dict[str, Any]] = [{"dataset": name} for name in dataset or ()] or [{}]
    jobs = [job for chosen in datasets for job in plan(found, assigned | chosen, optional)]
    root = out or default_root()
    outcomes = run_notebooks(jobs, root, timeout=timeout, force=force, report=_report_outcome)
    print(f"report -> {write_report(root)}")
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    if failed:
        print(f"egptlib: {failed} of {len(outcomes)} notebooks failed", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[Path | None, typer.Argument(help="Folder of runs; default: runs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pages; default: RUNS/report.")] = None,
) -> None:
    """Write one HTML page for each run and an index page; all of it opens offline."""
    from egptlib.reporting._html import write_report
    from egptlib.reporting._runs import default_root

    print(f"report -> {write_report(runs or default_root(), out)}")


def _report_outcome(outcome: "Outcome") -> None:
    dataset = Path(str(outcome.job.parameters.get("dataset", ""))).name
    where = f"{outcome.job.notebook.stem} on {dataset}" if dataset else outcome.job.notebook.stem
    match outcome.state:
        case "skipped":
            print(f"{where}: done earlier -> {outcome.folder}", flush=True)
        case "done":
            print(f"{where}: done in {outcome.seconds:.0f} s -> {outcome.folder}", flush=True)
        case _:
            print(f"{where}: FAILED after {outcome.seconds:.0f} s -> {outcome.folder}", flush=True)
            print(f"  {outcome.error}", file=sys.stderr, flush=True)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"-p {text!r}: expected NAME=VALUE")
    return name, value
