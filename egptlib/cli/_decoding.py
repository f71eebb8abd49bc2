"""Verbs of the decoding room: benchmark costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from egptlib.cli._app import (
    Dataset,
    Device,
    EventGPTFolder,
    EventViews,
    PairName,
    Split,
    VideoLlavaFolder,
    VisualTower,
    app,
)

if TYPE_CHECKING:
    from egptlib.decoding import CostReport

benchmark = typer.Typer(no_args_is_help=True, help="Measure on this machine.")
app.add_typer(benchmark, name="benchmark")


@benchmark.callback()
def _benchmark() -> None:
    """Measure on this machine."""


@benchmark.command()
def costs(
    out: Annotated[Path, typer.Option(help="Folder for costs_PAIR_PRECISION.json.")] = Path("runs/costs"),
    precision: Annotated[
        list[str] | None, typer.Option(help="float32, bfloat16 or nf4; may be repeated, all three when left out.")
    ] = None,
    dataset: Dataset = "streets",
    split: Split = "test",
    event_views: EventViews = 5,
    pair: PairName = "mini",
    eventgpt: EventGPTFolder = None,
    video_llava: VideoLlavaFolder = None,
    visual_tower: VisualTower = None,
    device: Device = "cpu",
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of every timing.")] = 9,
    max_gamma: Annotated[int, typer.Option(min=0, help="Verifications of 0 to so many draft tokens.")] = 32,
    contention: Annotated[bool, typer.Option(help="Also run both models at once.")] = True,
) -> None:
    """Stages, steps, verifications, memory and contention of both models, as a table and as JSON."""
    import torch

    from egptlib._paths import write_json
    from egptlib.decoding import report_costs
    from egptlib.models import load_pair
    from egptlib.scenes import open_scenes

    names = precision or ["float32", "bfloat16", "nf4"]
    if unknown := [name for name in names if name not in ("float32", "bfloat16", "nf4")]:
        raise ValueError(f"--precision: expected float32, bfloat16 or nf4, found {unknown[0]!r}")
    scene = open_scenes(dataset, split=split, event_views=event_views)[0]
    for name in names:
        models = load_pair(
            pair,
            eventgpt=eventgpt,
            video_llava=video_llava,
            visual_tower=visual_tower,
            quantization="nf4" if name == "nf4" else None,
            dtype=torch.float32 if name == "float32" else torch.bfloat16,
            device=device,
        )
        report = report_costs(
            models,
            scene,
            gammas=range(max_gamma + 1),
            repeats=repeats,
            measure_contention=contention,
            precision=name,
        )
        _print_report(report)
        path = out / f"costs_{pair}_{name}.json"
        report.costs.save(path)
        write_json(out / f"report_{pair}_{name}.json", report.to_dict())
        print(f"-> {path}\n", flush=True)


def _print_report(report: "CostReport") -> None:
    costs = report.costs
    print(f"{costs.pair}, {costs.precision}, {costs.device}, {costs.context_length} positions in the target's cache")
    for side, stages in (("target", costs.target_stages), ("drafter", costs.drafter_stages)):
        print(f"  {side:<8}" + "  ".join(f"{stage} {1000 * seconds:.2f} ms" for stage, seconds in stages.items()))
    print(f"  step    T_p(1) {1000 * costs.target_step:.2f} ms, T_q(1) {1000 * costs.drafter_step:.2f} ms")
    print("  c       " + ", ".join(f"{how} {ratio:.3f}" for how, ratio in report.c.items()))
    print("  v(gamma) " + "  ".join(f"{g}: {costs.verify_cost(g):.2f}" for g in costs.verify if g < 9 or g % 8 == 0))
    print(f"  contention: target {costs.contention_target:.2f}, drafter {costs.contention_drafter:.2f}")
    print(f"  free draft tokens on paper: {costs.free_draft_tokens}")
    print("  memory  " + ", ".join(f"{what} {amount:.2f}" for what, amount in report.memory.items()))
