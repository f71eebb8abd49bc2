"""Verbs that say what nobody has run: rehearse, predict."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from egptlib.cli._app import app

if TYPE_CHECKING:
    from egptlib.metrics import CostModel
    from egptlib.traces import Trace


@app.command()
def rehearse(
    pair: Annotated[
        str, typer.Option(help="eventgpt-videollava (the published pair, nothing of it need be here), or a pair.toml.")
    ] = "eventgpt-videollava",
    device: Annotated[str, typer.Option(help="cuda, cuda:1 or cpu; it need not be here.")] = "cuda",
    target_device: Annotated[str | None, typer.Option(help="The target's, if it is another.")] = None,
    precision: Annotated[Literal["bfloat16", "int8", "nf4"], typer.Option(help="Of the weights.")] = "bfloat16",
    gpu: Annotated[list[str] | None, typer.Option(help="A card by name; may be repeated. Left out: all known.")] = None,
    every_method: Annotated[bool, typer.Option(help="Every drafter, adapter, rule and mode, and training.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for costs_CARD.json, the least on each card, for `predict --costs`."),
    ] = None,
) -> None:
    """Run the whole pipeline at its real shapes without weights and without a GPU: memory, bounds, what is refused."""
    from egptlib.rehearsal import CARDS
    from egptlib.rehearsal import rehearse as run

    if unknown := [name for name in gpu or () if name not in CARDS]:
        raise ValueError(f"--gpu: expected one of {', '.join(CARDS)}, found {unknown[0]!r}")
    cards = [CARDS[name] for name in gpu or CARDS]
    found = run(
        pair, every_method=every_method, device=device, target_device=target_device,
        quantization=None if precision == "bfloat16" else precision,
        dtype=None if precision == "int8" else "bfloat16",
    )  # fmt: skip
    print(found.page(cards))
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    for card in cards:
        path = out / f"costs_{card.name.replace(' ', '_')}.json"
        found.costs(card).save(path)
        print(f"-> {path}")


@app.command()
def predict(
    source: Annotated[
        Path, typer.Argument(help="Run of notebook 07 or 08, folder of hidden states, trace, or recorded result file.")
    ],
    costs: Annotated[
        Path | None,
        typer.Option(
            help="costs_*.json of `benchmark costs` or of notebook 08; left out: fitted to the run's own times."
        ),
    ] = None,
    gamma: Annotated[
        list[int] | None, typer.Option(min=1, max=1000, help="May be repeated; 1, 2, 3, 5 and 8 when left out.")
    ] = None,
    overlap: Annotated[bool, typer.Option(help="The drafter reads and drafts beside the target's prefill.")] = False,
    free: Annotated[
        int | None, typer.Option(min=0, max=1000, help="Tokens drafted ahead; left out: what fits and was measured.")
    ] = None,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="A draft ends with a token below it.")] = 0.0,
    method: Annotated[
        str | None, typer.Option(help="Timed runs the costs are fitted to; left out: those at the most gammas.")
    ] = None,
    other_pair: Annotated[bool, typer.Option(help="Take costs of another pair than the trace's.")] = False,
    timed: Annotated[Path | None, typer.Option(help="Trace of timed runs to hold the costs against.")] = None,
    out: Annotated[Path | None, typer.Option(help="CSV to write.")] = None,
) -> None:
    """Replay a trace at several gammas and say, from measured costs, what the clock would show. No model is run."""
    import pandas as pd

    from egptlib._paths import atomic_write
    from egptlib.metrics import CostModel, Costs, replay
    from egptlib.recorded import open_recorded
    from egptlib.traces import Trace, find_traces, fit_trace

    if source.suffix == ".json":
        raise ValueError(open_recorded(source).why_not_replayed)
    recorded, clocked = find_traces(source)
    if costs is not None:
        model = CostModel(Costs.load(costs))
    elif clocked is not None:
        model = CostModel(fit_trace(clocked, method or _at_most_gammas(clocked)))
    else:
        raise ValueError(f"{source}: no run in it was timed; --costs names what a step and a verification take")
    if not other_pair and recorded.pair and model.costs.pair and recorded.pair != model.costs.pair:
        raise ValueError(
            f"{costs or source}: costs of the pair {model.costs.pair!r}, but {recorded.source} is of "
            f"{recorded.pair!r}; --other-pair takes them all the same"
        )
    gammas = gamma or [1, 2, 3, 5, 8]
    stops = recorded.drafter_ends
    if min_confidence:
        stops = stops | (recorded.values("confidence") < min_confidence)
    longest = max(model.costs.verify, default=0)  # of the drafts whose verification was measured
    ahead = min(model.free_tokens, longest) if overlap and free is None else free
    found = replay(recorded.match, recorded.lengths, gammas, limit=recorded.max_new_tokens, free=ahead, stops=stops)
    rows = []
    for g, size in enumerate(gammas):
        prediction = model.predict(found, recorded.lengths, size, overlap=overlap)
        low, high = prediction.interval()
        rows.append(
            {
                "gamma": size,
                "accepted a round": found.num_accepted_tokens[g],
                "tokens a pass": found.mean_acceptance_length[g],
                "seconds an answer": prediction.seconds.mean(),
                "speedup": prediction.speedup,
                "low": low,
                "high": high,
                "slower": prediction.share_slower,
                "at most": prediction.largest_speedup,
            }
        )
    table = pd.DataFrame(rows)
    measured = ", ".join(filter(None, (model.costs.pair, model.costs.precision, model.costs.device)))
    print(f"{len(recorded)} answers, {int(recorded.lengths.sum())} tokens; costs of {measured or costs or source}")
    print(f"free draft tokens: {ahead or 0}{' (beside the target)' if overlap else ''}\n")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    best = table.loc[table.speedup.idxmax()]
    print(
        f"\nbest: gamma {best.gamma:.0f}, {best.speedup:.3f}x [estimated], 95 % over answers {best.low:.3f} to "
        f"{best.high:.3f}; never more than {best['at most']:.2f}x"
        + ("; plain decoding is faster" if best.speedup < 1 else "")
    )
    if timed is not None:
        clock = Trace.load(timed)
        for name in clock.methods:
            _print_error(name, model, clock.method(name))
    if out is not None:
        with atomic_write(out) as temporary:
            table.to_csv(temporary, index=False)
        print(f"-> {out}")


def _at_most_gammas(timed: "Trace") -> str:
    """The pattern of the method that was timed at the most gammas, one model after the other: `EventGPT, gamma *`."""
    counts: dict[str, int] = {}
    for name in timed.methods:
        head, _, last = name.rpartition(" ")
        if last.isdecimal() and head.endswith("gamma") and timed.method(name).rows[0].tag == "measured (sequential)":
            counts[head] = counts.get(head, 0) + 1
    if not counts:
        raise ValueError(f"{timed.source}: no method at a gamma; --method names one of {', '.join(timed.methods)}")
    return f"{max(counts, key=lambda head: counts[head])} *"


def _print_error(name: str, model: "CostModel", timed: "Trace") -> None:
    """Print how far the costs are off the clock on runs whose rounds are known."""
    from egptlib.traces import recorded_schedule

    known = timed.select(i for i, row in enumerate(timed.rows) if row.rounds and row.total_seconds is not None)
    if not known.rows:
        print(f"{name}: its rounds are not known, so it cannot be foretold")
        return
    tag = known.rows[0].tag
    try:
        found = recorded_schedule(known)
        prediction = model.predict(found, known.lengths, int(found.gammas[0]), overlap=tag == "measured (overlapped)")
    except ValueError as error:  # these costs are of another method, which drafts less at once
        print(f"{name}: cannot be foretold: {error}")
        return
    clock = sum(row.total_seconds or 0.0 for row in known.rows)
    off = prediction.seconds.sum() / clock - 1
    print(f"{name}: {off:+.1%} off the clock ({len(known)} answers, {clock:.2f} s [{tag}])")
