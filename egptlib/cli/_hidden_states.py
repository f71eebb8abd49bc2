"""Verbs of the hidden states and metrics rooms: extract, plan-extraction, convert, convert-states, evaluate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from egptlib.cli._app import Dataset, EventViews, Pair, Split, app, scenes_for

NumScenes = Annotated[int | None, typer.Option(min=1, help="Scenes, taken evenly from all; all when left out.")]
NumQuestions = Annotated[int, typer.Option(min=1, help="Questions per scene.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Tokens per answer.")]
TokenPath = Annotated[
    Literal["target", "free"], typer.Option(help="target: both read the target's answer; free: each its own.")
]
StoredDtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Of the states; the target's own if left out.")
]
LayerList = Annotated[str | None, typer.Option(help="Target layers to keep besides the last states, as 3,6,9.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples at once.")]


@app.command()
def extract(
    out: Annotated[Path, typer.Option(help="Folder for the hidden states; an unfinished one is continued.")],
    dataset: Dataset = "streets",
    split: Split = "test",
    pair: Pair = "mini",
    path: TokenPath = "target",
    event_views: EventViews = 5,
    num_scenes: NumScenes = None,
    num_questions: NumQuestions = 10,
    max_new_tokens: MaxNewTokens = 50,
    dtype: StoredDtype = None,
    layers: LayerList = None,
    prompt_rows: Annotated[
        bool, typer.Option("--prompt-rows", help="Keep the target's states along the prompts too, for served heads.")
    ] = False,
    batch_size: BatchSize = 64,
    chunk_size: Annotated[int, typer.Option(min=1, help="Samples per file.")] = 1000,
    commit_every: Annotated[int, typer.Option(min=1, help="Most samples that a crash can cost.")] = 50,
    max_failures_in_row: Annotated[int, typer.Option(min=1, help="So many in a row stop the run.")] = 100,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what was set aside.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=1000, help="Processes on this machine, one GPU each.")] = 1,
    cluster: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, instead of workers; see requirements-cluster.txt.")
    ] = None,
) -> None:
    """Run both models over a dataset and keep their last hidden states."""
    from egptlib.hidden_states import HiddenStates, extract_shards, first_failure
    from egptlib.hidden_states import extract as run
    from egptlib.models import load_pair, pair_settings
    from egptlib.scenes import none_readable

    settings = pair_settings(pair)
    options = _options(path, max_new_tokens, num_questions, dtype, layers, batch_size)
    options |= {"chunk_size": chunk_size, "commit_every": commit_every, "prompt_rows": prompt_rows}
    options |= {"retry_failed": retry_failed, "max_failures_in_row": max_failures_in_row}
    scenes = scenes_for(pair, dataset, split, event_views, num_scenes)
    try:
        if workers > 1 or cluster:
            extract_shards(vars(settings), scenes, out, workers, cluster, **options)
        else:
            run(load_pair(settings), scenes, out, **options)
    except RuntimeError as error:  # too many failures in a row, or workers that died: one line, as for bad input
        raise ValueError(f"{dataset}: {error}") from error
    if (out / "index.json").is_file() and not len(HiddenStates.open(out)):
        raise ValueError(f"{none_readable(scenes, first_failure(out))} -> {out}")


@app.command()
def plan_extraction(
    dataset: Dataset = "streets",
    split: Split = "test",
    pair: Pair = "mini",
    path: TokenPath = "target",
    event_views: EventViews = 5,
    num_scenes: NumScenes = None,
    num_questions: NumQuestions = 10,
    max_new_tokens: MaxNewTokens = 50,
    dtype: StoredDtype = None,
    layers: LayerList = None,
    batch_size: BatchSize = 64,
) -> None:
    """Say what an extraction will cost, samples, bytes and hours, from a short trial on this machine."""
    from egptlib.hidden_states import plan_extraction as plan
    from egptlib.models import load_pair

    options = _options(path, max_new_tokens, num_questions, dtype, layers, batch_size)
    print(plan(load_pair(pair), scenes_for(pair, dataset, split, event_views, num_scenes), **options))


def _options(
    path: str, max_new_tokens: int, num_questions: int, dtype: str | None, layers: str | None, batch_size: int
) -> dict[str, Any]:
    """What an extraction and its plan are told alike."""
    options: dict[str, Any] = {"path": path, "max_new_tokens": max_new_tokens, "num_questions": num_questions}
    options |= {"dtype": dtype, "batch_size": batch_size}
    if layers:
        try:
            options["layers"] = {"target": tuple(int(number) for number in layers.split(","))}
        except ValueError:
            raise ValueError(f"--layers {layers!r}: expected numbers of layers, as 3,6,9") from None
    return options


@app.command()
def convert(
    old: Annotated[Path, typer.Argument(help="Folder of the earlier writer (.pt chunks).")],
    new: Annotated[Path, typer.Argument(help="Folder to write; an unfinished one is continued.")],
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the states.")] = "bfloat16",
) -> None:
    """Turn the earlier writer's chunks into the present format, resumably, and compare all sums."""
    from egptlib.hidden_states import convert as run

    print(run(old, new, dtype))


@app.command()
def convert_states(
    store: Annotated[Path, typer.Argument(help="Hidden states with the target's layers and --prompt-rows.")],
    out: Annotated[Path, typer.Option(help="Empty or new folder to write to.")],
    form: Annotated[
        Literal["speculators"], typer.Option("--format", help="Whose trainer is to read it.")
    ] = "speculators",
) -> None:
    """Write whole sequences with their states, prompt and answer, as another trainer takes them."""
    from egptlib.hidden_states import convert_states as run

    print(run(store, out))


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of hidden states, new or from the earlier writer.")],
    threshold: Annotated[
        list[float] | None, typer.Option(min=-1, max=1, help="Cosine above which a position is accepted.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Acceptance in a folder of hidden states: equal tokens first, then the cosine proxy."""
    from egptlib._paths import write_json
    from egptlib.hidden_states import HiddenStates
    from egptlib.metrics import AcceptanceAccumulator, token_acceptance

    accumulator = AcceptanceAccumulator(threshold) if threshold else AcceptanceAccumulator()
    drafter_ids: list[list[int]] = []
    target_ids: list[list[int]] = []
    for batch in HiddenStates.open(folder).stream(64):
        accumulator.update_ragged([s.drafter_hidden for s in batch], [s.target_hidden for s in batch])
        for sample in batch:
            if sample.token_ids is not None and sample.drafter_top1 is not None:
                drafter_ids.append(sample.drafter_top1.tolist())
                target_ids.append(sample.token_ids.tolist())
    metrics, positions = accumulator.compute(), accumulator.per_position()
    tokens = token_acceptance(drafter_ids, target_ids) if target_ids else {}
    if tokens:
        print("tokens, exact: what a verifier compares")
        _print_table([(name, value) for name, value in tokens.items() if not isinstance(value, dict)])
        print()
    print("cosine of hidden states, a proxy" + ("" if tokens else ": this folder holds no token ids"))
    _print_table([(name, value) for name, value in metrics.items() if not isinstance(value, list)])
    if out is not None:
        write_json(out, {"tokens": tokens, "metrics": metrics, "per_position": positions})
        print(f"-> {out}")


def _print_table(rows: Sequence[tuple[str, Any]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {json.dumps(value)}")
