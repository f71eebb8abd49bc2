"""Verbs of the reporting room: run, demo, sweep, runs, report, paper, lab."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from egptlib.cli._app import App, app, given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egptlib.reporting import Job, Outcome


Out = Annotated[Path | None, typer.Option(help="Folder for runs and report; default: runs.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="A few scenes and tokens, to see that all runs.")]
Force = Annotated[bool, typer.Option("--force", help="Run again what is done already.")]
Timeout = Annotated[int, typer.Option(min=1, help="Seconds one cell may take.")]
NotebookTimeout = Annotated[int | None, typer.Option(min=1, help="Seconds one notebook may take.")]
Workers = Annotated[
    int, typer.Option(min=1, max=1000, help="Notebooks at the same time, each in a process of its own.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list the runs, and which are done.")]
Root = Annotated[Path | None, typer.Option(help="Folder of runs; default: runs.")]
RootFirst = Annotated[Path | None, typer.Argument(help="Folder of runs, as --root.")]

runs_app = App(no_args_is_help=True, help="List, compare and star runs.")
app.add_typer(runs_app, name="runs")


@app.command()
def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="Numbers, names or paths; all when left out.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="streets, clips, or a folder; may be repeated.")] = None,
    pair: Annotated[str | None, typer.Option(help="mini, midi, or a pair.toml.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="May be repeated.")] = None,
    out: Out = None,
    smoke: Smoke = False,
    force: Force = False,
    timeout: Timeout = 1800,
    notebook_timeout: NotebookTimeout = None,
    workers: Workers = 1,
    dry_run: DryRun = False,
) -> None:
    """Execute notebooks, each in a process and a run folder of its own, and write the report.

    A run that is done is skipped; it counts as another one when a parameter, the notebook or the library differs.
    """
    from egptlib.reporting import Limits, find_notebooks, plan

    assigned = dict(_assignment(text) for text in parameter or ())
    optional: dict[str, Any] = {"smoke": smoke} | given(pair=pair)
    found = find_notebooks(notebooks or ())
    datasets: list[dict[str, Any]] = [{"dataset": name} for name in dataset or ()] or [{}]
    jobs = [job for chosen in datasets for job in plan(found, assigned | chosen, optional)]
    if dry_run:
        _list_jobs(jobs, out)
        return
    limits = Limits(timeout, notebook_timeout)
    _run_and_report(jobs, out, workers=workers, limits=limits, force=force)


@app.command()
def demo(out: Out = None, smoke: Smoke = False, force: Force = False) -> None:
    """Make streets and clips, run all notebooks on them, and write the report; what is done is skipped.

    Notebooks whose figures are times run alone, the others two at a time. Those that train run on streets only.
    """
    from egptlib.cli._scenes import make_data
    from egptlib.reporting import find_notebooks, plan

    def planned(dataset: str, *notebooks: str, alone: bool = False) -> "list[Job]":
        jobs = plan(find_notebooks(notebooks), {"dataset": dataset}, {"smoke": smoke})
        return [replace(job, alone=alone) for job in jobs]

    def make_both() -> None:
        make_data("streets", "test", sequences=8)
        make_data("clips", "test", sequences=None)

    jobs = planned("streets", "02", "03", "05") + planned("clips", "02", "04") + planned("streets", "04")
    jobs += planned("clips", "01", alone=True) + planned("streets", "01", "06", "07", "08", alone=True)
    _run_and_report(jobs, out, workers=2, force=force, prepare=make_both)


@app.command()
def sweep(
    grid: Annotated[Path, typer.Argument(help="YAML file with notebooks, parameters and grid.")],
    out: Out = None,
    smoke: Smoke = False,
    force: Force = False,
    timeout: Timeout = 1800,
    notebook_timeout: NotebookTimeout = None,
    workers: Workers = 1,
    cluster: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler to run on instead.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Execute notebooks for every combination of a grid of parameters, and write the report.

    Given again, it goes on where it stopped. On a cluster every machine must see the notebooks and --out by the same
    names; start its workers with one thread for each notebook that they are to run at the same time.
    """
    from egptlib.reporting import Limits, differing, plan_sweep, read_grid

    jobs = plan_sweep(read_grid(grid), {"smoke": smoke})
    varying = differing([job.parameters for job in jobs])
    if dry_run:
        _list_jobs(jobs, out, varying, here=cluster is None)
        return
    limits = Limits(timeout, notebook_timeout)
    _run_and_report(jobs, out, varying, workers=workers, cluster=cluster, limits=limits, force=force)


@runs_app.command("list")
def list_(
    runs: RootFirst = None,
    root: Root = None,
    notebook: Annotated[
        str | None, typer.Option(help="Only runs of this notebook: its name, or how it begins.")
    ] = None,
    starred: Annotated[bool, typer.Option("--starred", help="Only starred runs.")] = False,
) -> None:
    """List runs: star, state, seconds, what their parameters differ in, and name."""
    from egptlib.reporting import default_root, overview

    print(overview(_root(runs, root) or default_root(), notebook=notebook, starred=starred))


@runs_app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Two or more runs: names, or how they begin.")],
    root: Root = None,
) -> None:
    """Set runs side by side: headlines first, then the parameters and figures in which they differ."""
    from egptlib.reporting import compare_runs, default_root, find_run

    folder = root or default_root()
    table = compare_runs([find_run(folder, name) for name in names])
    print(table.astype(object).where(table.notna(), "-").to_string() if len(table) else "no difference")


@runs_app.command()
def star(
    name: Annotated[str, typer.Argument(help="The run: its name, or how it begins.")],
    root: Root = None,
    note: Annotated[str, typer.Option(help="Why it is worth finding again.")] = "",
    off: Annotated[bool, typer.Option("--off", help="Take the star away.")] = False,
) -> None:
    """Star a run, so that it is found again: `runs list --starred`, and `collect()` says so too."""
    from egptlib.reporting import default_root, find_run, set_star

    folder = find_run(root or default_root(), name)
    set_star(folder, None if off else note)
    print(f"{'no longer starred' if off else 'starred'}: {folder.name}")


@app.command()
def report(
    runs: RootFirst = None,
    root: Root = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pages; default: report/ in that of the runs.")
    ] = None,
) -> None:
    """Write one HTML page for each run and an index page; all of it opens offline."""
    from egptlib.reporting import default_root, write_report

    print(f"report -> {write_report(_root(runs, root) or default_root(), out, _note)}")


@app.command()
def paper(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    runs: RootFirst = None,
    root: Root = None,
    starred: Annotated[bool, typer.Option("--starred", help="Only starred runs.")] = False,
) -> None:
    """Export figures (PDF), tables (booktabs LaTeX) and numbers (newcommands) of finished runs, and a main.tex."""
    from egptlib.reporting import default_root, write_paper

    path, counts = write_paper(_root(runs, root) or default_root(), out, starred=starred, tell=_note)
    print(", ".join(f"{count} {kind[:-1] if count == 1 else kind}" for kind, count in counts.items()) + f" -> {path}")


@app.command()
def lab(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="First port tried.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open it on this screen.")] = True,
    allow_root: Annotated[bool, typer.Option("--allow-root", help="Start as root, in a container.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Only show what was edited in the working copies.")] = False,
    reset: Annotated[
        list[str] | None, typer.Option(help="Only take a fresh copy of a notebook, or of `all`; may be repeated.")
    ] = None,
) -> None:
    """Start JupyterLab with working copies of the notebooks, for this machine alone and with a token.

    The copies are in lab/; `run` and `sweep` take the committed notebooks. An edited copy stays until it is reset.
    """
    import os

    from egptlib.reporting import compare_copies, copies_folder, lab_command, refresh_copies, reset_copies

    folder = copies_folder()
    if diff:
        print(compare_copies(folder) or "no working copy was edited")
        return
    if reset:
        aside = reset_copies(folder, [] if "all" in reset else reset)
        print(f"fresh copies -> {folder}" + "".join(f"\nwhat was edited -> {path}" for path in aside))
        return
    if hasattr(os, "geteuid") and os.geteuid() == 0 and not allow_root:
        raise ValueError("lab: JupyterLab does not start as root: `egptlib lab --allow-root`, or as another user")
    edited = refresh_copies(folder)
    options = ("--allow-root",) if allow_root else ()
    command, environment, address = lab_command(port, folder=folder, open_browser=browser, options=options)
    if edited:
        print(f"edited, and left so: {', '.join(edited)} (`egptlib lab --diff` shows it, `--reset NAME` takes it back)")
    print(f"JupyterLab, in a few seconds: {address}")
    if not browser:
        at = address.split(":")[2].split("/")[0]
        print(f"from another machine: ssh -L {at}:127.0.0.1:{at} THIS_MACHINE, and the same address there")
    sys.stdout.flush()
    os.execvpe(command[0], command, os.environ | environment)


def _run_and_report(jobs: "Sequence[Job]", out: Path | None, varying: "Sequence[str]" = (), **options: Any) -> None:
    """Run the jobs, say how each ended, write the report; exit code 1 when one failed."""
    from egptlib.reporting import default_root, read_status, run_notebooks, write_report

    root = out or default_root()
    ended = 0

    def tell(outcome: "Outcome") -> None:
        nonlocal ended
        ended += 1
        where = f"[{ended}/{len(jobs)}] {_describe(outcome.job, varying)}"
        match outcome.state:
            case "skipped":
                print(f"{where}: done earlier -> {outcome.folder}", flush=True)
            case "done":
                print(f"{where}: done in {outcome.seconds:.0f} s -> {outcome.folder}", flush=True)
            case _:
                print(f"{where}: FAILED after {outcome.seconds:.0f} s -> {outcome.folder}", flush=True)
                print(f"  {outcome.error}", file=sys.stderr, flush=True)

    _check_inputs(jobs, here=options.get("cluster") is None)
    states = [(read_status(root / job.name) or {}).get("state") for job in jobs]
    _read_scenes([job for job, state in zip(jobs, states) if options["force"] or state != "done"])
    outcomes = run_notebooks(jobs, root, report=tell, **options)
    try:
        print(f"report -> {write_report(root, tell=_note)}")
    except (OSError, ValueError) as error:  # the notebooks have done what they were to do
        print(f"egptlib: no report: {error}", file=sys.stderr)
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    if failed:
        print(f"egptlib: {failed} of {len(outcomes)} notebooks failed", file=sys.stderr)
        raise typer.Exit(1)


def _root(first: Path | None, named: Path | None) -> Path | None:
    if first and named and first != named:
        raise ValueError(f"--root: expected one folder of runs, found {first} and {named}")
    return first or named


def _list_jobs(jobs: "Sequence[Job]", out: Path | None, varying: "Sequence[str]" = (), here: bool = True) -> None:
    """Say of each job what it is, whether it is done, and where it is or will be."""
    from egptlib.reporting import default_root, read_status

    _check_inputs(jobs, here)
    root = out or default_root()
    states = [(read_status(root / job.name) or {}).get("state", "to do") for job in jobs]
    for job, state in zip(jobs, states):
        print(f"{state:<7} {_describe(job, varying)} -> {root / job.name}")
    print(f"{len(jobs)} run{'s'[: len(jobs) != 1]}, {sum(state == 'done' for state in states)} done already")


def _check_inputs(jobs: "Sequence[Job]", here: bool) -> None:
    """Find a wrong pair or dataset before a notebook starts; devices too, where it is this machine that has them."""
    for pair in {job.parameters["pair"] for job in jobs if "pair" in job.parameters} - {"mini"}:
        from egptlib.models import pair_settings, usable_device

        settings = pair_settings(pair)
        for field in ("device", "target_device") if here else ():
            usable_device(getattr(settings, field) or "cpu", f"{pair}: {field}")
    for dataset in {job.parameters["dataset"] for job in jobs if "dataset" in job.parameters}:
        if Path(dataset).is_absolute():  # a folder; the others are built in
            from egptlib.scenes import open_scenes

            open_scenes(dataset)


def _read_scenes(jobs: "Sequence[Job]") -> None:
    """Find a scene that cannot be read, of those that the notebooks take from folders, before one starts."""
    from egptlib.scenes import open_scenes

    taken = ("dataset", "event_views", "num_scenes")
    told = {tuple(job.parameters[name] for name in taken) for job in jobs if job.parameters.keys() >= set(taken)}
    for dataset, event_views, num_scenes in sorted(told):
        if Path(dataset).is_absolute():
            for _ in open_scenes(dataset, event_views=event_views).spread(num_scenes):
                pass  # a scene that cannot be read names itself


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def _describe(job: "Job", varying: "Sequence[str]" = ()) -> str:
    """Name a run by its notebook, its dataset, and those of the `varying` parameters that it has."""
    dataset = Path(str(job.parameters.get("dataset", ""))).name
    where = f"{job.notebook.stem} on {dataset}" if dataset else job.notebook.stem
    values = [f"{name}={job.parameters[name]}" for name in varying if name != "dataset" and name in job.parameters]
    return f"{where} ({', '.join(values)})" if values else where


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"-p {text!r}: expected NAME=VALUE")
    return name, value
