"""Verbs of the measuring room: benchmark costs, benchmark divergences, selftest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from egptlib.cli._app import App, Dataset, EventViews, Pair, Split, app, scenes_for

if TYPE_CHECKING:
    from egptlib.measuring import CostReport, Method
    from egptlib.models import Pair as Models
    from egptlib.models import PairSettings

PRECISIONS = ("float32", "bfloat16", "int8", "nf4")

benchmark = App(no_args_is_help=True, help="Measure on this machine.")
app.add_typer(benchmark, name="benchmark")


@benchmark.callback()
def _benchmark() -> None:
    """Measure on this machine."""


@benchmark.command()
def costs(
    out: Annotated[Path, typer.Option(help="Folder for costs_PAIR_PRECISION.json, the report and figures.")] = Path(
        "runs/costs"
    ),
    precision: Annotated[
        list[str] | None,
        typer.Option(help="float32, bfloat16, int8 or nf4; may be repeated; when left out, all that fit."),
    ] = None,
    dataset: Dataset = "streets",
    split: Split = "test",
    event_views: EventViews = 5,
    pair: Pair = "mini",
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of every timing.")] = 15,
    max_gamma: Annotated[int, typer.Option(min=0, max=1000, help="Verifications of 0 to so many draft tokens.")] = 32,
    contention: Annotated[bool, typer.Option(help="Also run both models at once.")] = True,
) -> None:
    """Stages, steps, verifications, memory and contention of both models, as a table, as JSON and as figures."""
    from egptlib._paths import write_json
    from egptlib.figures import step_parts_figure, verify_cost_figure
    from egptlib.measuring import report_costs
    from egptlib.models import pair_settings, without_room

    names, settings = _precisions(precision, PRECISIONS), pair_settings(pair)
    if not precision:
        left_out = without_room(settings, names)
        for name, why in left_out.items():
            print(f"{name} is left out: {why}")
        names = [name for name in names if name not in left_out]
        if not names:
            raise ValueError(f"pair {settings.name!r}: no precision has room here: {'; '.join(set(left_out.values()))}")
    scene = next(scenes_for(settings, dataset, split, event_views).readable())
    out.mkdir(parents=True, exist_ok=True)
    reports: dict[str, CostReport] = {}
    for name in names:
        models = _load(settings, name)
        reports[name] = report = report_costs(
            models,
            scene,
            gammas=range(max_gamma + 1),
            repeats=repeats,
            measure_contention=contention,
            precision=name,
        )
        del models
        print(report)
        path = out / f"costs_{settings.key}_{name}.json"
        report.costs.save(path)
        write_json(out / f"report_{settings.key}_{name}.json", report.to_dict())
        print(f"-> {path}\n", flush=True)
    verify_cost_figure({name: report.costs for name, report in reports.items()}).savefig(out / "verify_cost.png")
    parts = {f"{name}, {side}": seconds for name, r in reports.items() for side, seconds in r.parts.items()}
    step_parts_figure(parts).savefig(out / "step_parts.png")
    print(f"-> {out / 'verify_cost.png'}, {out / 'step_parts.png'}")


@benchmark.command()
def divergences(
    out: Annotated[Path, typer.Option(help="Folder for divergences_PAIR_PRECISION.json.")] = Path("runs/divergences"),
    precision: Annotated[
        list[str] | None,
        typer.Option(help="float32, bfloat16, int8 or nf4; may be repeated; bfloat16 and nf4 when left out."),
    ] = None,
    dataset: Dataset = "streets",
    split: Split = "test",
    event_views: EventViews = 5,
    pair: Pair = "mini",
    scenes: Annotated[int, typer.Option("--num-scenes", min=1, help="Taken evenly from all.")] = 8,
    questions: Annotated[int, typer.Option("--num-questions", min=1, help="Of each scene.")] = 5,
    gamma: Annotated[int, typer.Option(min=1, max=1000, help="Draft tokens per verification.")] = 5,
    tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens per answer.")] = 50,
) -> None:
    """Where greedy answers part from transformers' own `generate`, and the gap between the two best logits there."""
    from functools import partial

    from egptlib._paths import write_json
    from egptlib.decoding import as_drafter, speculative_generate
    from egptlib.measuring import find_divergences, plain_loop
    from egptlib.models import pair_settings

    names, settings = _precisions(precision, ("bfloat16", "nf4")), pair_settings(pair)
    found = scenes_for(settings, dataset, split, event_views, scenes)
    prompts = [(scene, question) for scene in found.readable() for question in scene.questions[:questions]]
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        models = _load(settings, name)
        target, drafter = models.target, as_drafter(models.drafter, models.target, models.matching)
        methods: dict[str, Method] = {
            "plain loop": plain_loop(target, tokens),
            f"speculative, gamma {gamma}": partial(
                speculative_generate, target, drafter, gamma=gamma, max_new_tokens=tokens
            ),
        }
        report = find_divergences(target, methods, prompts, tokens)
        print(f"{settings.name}, {name}: {report}")
        path = out / f"divergences_{settings.key}_{name}.json"
        write_json(path, report.to_dict())
        print(f"-> {path}\n", flush=True)


@app.command()
def selftest(
    out: Annotated[Path, typer.Option(help="Folder for selftest.json and selftest.md.")] = Path("selftest"),
    pair: Pair = "mini",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; as the pair says if left out.")] = None,
    target_device: Annotated[str | None, typer.Option(help="The target's, if it is another.")] = None,
    dataset: Dataset = "streets",
    split: Split = "test",
    event_views: EventViews = 5,
    scenes: Annotated[int, typer.Option(min=1, help="Taken evenly from all.")] = 3,
    questions: Annotated[int, typer.Option(min=1, help="Of each scene.")] = 2,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens per answer.")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="Of each timing.")] = 5,
) -> None:
    """Ten minutes on this machine: is every method right, what do the models need and cost; one page to send."""
    from egptlib._paths import write_json
    from egptlib.measuring import selftest as run
    from egptlib.models import load_pair, pair_settings
    from egptlib.reporting import describe_environment

    settings = pair_settings(pair, device=device, target_device=target_device)
    found = scenes_for(settings, dataset, split, event_views, scenes)
    prompts = [(scene, question) for scene in found.readable() for question in scene.questions[:questions]]
    models = load_pair(settings)
    report = run(models, prompts, repeats=repeats, max_new_tokens=tokens, say=lambda line: print(line, flush=True))
    environment = describe_environment(settings.device, settings.target_device or settings.device)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "selftest.json", {"environment": environment} | report.to_dict())
    told = "".join(f"- {name}: {value}\n" for name, value in environment.items())
    (out / "selftest.md").write_text(report.page() + "\n" + told, encoding="utf-8")
    print(f"-> {out / 'selftest.md'}, {out / 'selftest.json'}")
    if wrong := report.wrong():
        raise ValueError(f"{settings.name}: not generate's answers, and no rounding explains it: {', '.join(wrong)}")


def _precisions(given: list[str] | None, default: tuple[str, ...]) -> list[str]:
    names = given or list(default)
    if unknown := [name for name in names if name not in PRECISIONS]:
        raise ValueError(f"--precision: expected {', '.join(PRECISIONS)}, found {unknown[0]!r}")
    return names


def _load(settings: "PairSettings", precision: str) -> "Models":
    """The pair in another precision than its settings say."""
    from dataclasses import replace

    from egptlib.models import load_pair

    quantization: Any = precision if precision in ("nf4", "int8") else None
    dtype = {"nf4": "bfloat16", "int8": "float16"}.get(precision, precision)
    pair = load_pair(replace(settings, quantization=quantization, dtype=dtype))
    for side, model in (("drafter", pair.drafter), ("target", pair.target)):
        if model.precision != precision:  # it was saved quantized
            raise ValueError(f"--precision {precision}: the {side} of {settings.name} opens as {model.precision} alone")
    return pair
