"""Verbs of the hidden states and metrics rooms: extract, plan-extraction, convert, evaluate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from egptlib.cli._app import Dataset, EventGPTFolder, PairName, Split, VideoLlavaFolder, app


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
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the states; the target's own if left out."),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Target layers to keep besides the last states, as 3,6,9.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at once.")] = 64,
    commit_every: Annotated[int, typer.Option(min=1, help="Most samples that a crash can cost.")] = 50,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what was set aside.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine, one GPU each.")] = 1,
    cluster: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, instead of workers.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it will cost, from a short trial.")] = False,
) -> None:
    """Run both models over a dataset and keep their last hidden states."""
    from egptlib.hidden_states import extract as run
    from egptlib.hidden_states import extract_shards, plan_extraction
    from egptlib.models import load_pair
    from egptlib.scenes import open_scenes

    scenes = open_scenes(dataset, split=split, event_views=event_views)[:num_scenes]
    models: dict[str, Any] = {
        "name": pair,
        "eventgpt": eventgpt,
        "video_llava": video_llava,
        "visual_tower": visual_tower,
        "quantization": quantization,
        "device": device,
        "target_device": target_device,
    }
    options: dict[str, Any] = {"path": path, "max_new_tokens": max_new_tokens, "num_questions": num_questions}
    options |= {"dtype": dtype, "batch_size": batch_size}
    if layers:
        options["layers"] = {"target": tuple(int(number) for number in layers.split(","))}
    if plan:
        print(plan_extraction(load_pair(**models), scenes, **options))
        return
    options |= {"commit_every": commit_every, "retry_failed": retry_failed}
    if workers > 1 or cluster:
        extract_shards(models, scenes, out, workers, cluster, **options)
    else:
        run(load_pair(**models), scenes, out, **options)


@app.command()
def plan_extraction(
    dataset: Dataset = "streets",
    split: Split = "test",
    pair: PairName = "mini",
    num_scenes: Annotated[int | None, typer.Option(min=1, help="Scenes to use; all when left out.")] = None,
    num_questions: Annotated[int, typer.Option(min=1, help="Questions per scene.")] = 10,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 50,
    eventgpt: EventGPTFolder = None,
    video_llava: VideoLlavaFolder = None,
    quantization: Annotated[Literal["nf4", "int8"] | None, typer.Option(help="None when left out.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Say what an extraction will cost, from a short trial; `extract --plan` takes all options."""
    extract(
        out=Path(),
        dataset=dataset,
        split=split,
        pair=pair,
        num_scenes=num_scenes,
        num_questions=num_questions,
        max_new_tokens=max_new_tokens,
        eventgpt=eventgpt,
        video_llava=video_llava,
        quantization=quantization,
        device=device,
        plan=True,
    )


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
    for batch in HiddenStates.open(folder).stream(64):
        accumulator.update_ragged([s.drafter_hidden for s in batch], [s.target_hidden for s in batch])
    metrics, positions = accumulator.compute(), accumulator.per_position()
    _print_table([(name, value) for name, value in metrics.items() if not isinstance(value, list)])
    if out is not None:
        write_json(out, {"metrics": metrics, "per_position": positions})
        print(f"-> {out}")


def _print_table(rows: Sequence[tuple[str, Any]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {json.dumps(value)}")
