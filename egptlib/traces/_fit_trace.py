"""Costs fitted from a trace, and what its timed runs did in the form that the cost model reads."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from egptlib._clock import READING
from egptlib.metrics import Costs, Replay, fit_costs
from egptlib.traces._trace import Trace, TraceRow


def fit_trace(trace: Trace, method: str, after: Sequence[str] = ()) -> Costs:
    """Fit what the parts of one method cost, from its timed runs in a trace.

    Runs with events are fitted pass by pass (`metrics.fit_costs`). Of runs of which only sums are known, as of the
    recorded `e2e_wallclock` files, plain decoding gives the target's step and prefill; a method with one draft ahead
    and plain steps after it gives the pass over that draft: what decoding took beyond these steps.

    Args:
        method: its name, or a pattern that several fit (`gamma *`). With the drafter beside the target,
            `contention_*` compare its stages with those of the method fitted before it.
        after: methods fitted first, each for what the next do not say, as plain decoding for the target's step. Left
            out: the first method that was timed pass by pass and never drafts.

    Raises:
        ValueError: a method was not timed, has runs without times, or sums that cannot be taken apart; or none of them
            says what a target step of plain decoding takes, or a step of the drafter.
    """
    costs = Costs(1.0, 1.0)  # both steps are fitted, or refused below
    plain = [name for name in trace.methods if _is_plain(rows := trace.method(name).rows) and rows[0].events][:1]
    names = [*(after or [name for name in plain if name != method]), method]
    for name in names:
        rows = trace.method(name).rows
        seconds = [row.total_seconds for row in rows if row.total_seconds is not None]
        if len(seconds) < len(rows):
            raise ValueError(f"trace {trace.source}: {name!r} has answers without total_seconds")
        if all(row.events for row in rows):
            costs = fit_costs(rows, seconds, costs)
        elif any(row.rounds for row in rows):
            costs = _fit_one_draft(rows, costs)
        else:
            costs = _fit_plain(rows, costs)
    if not any(_is_plain(trace.method(name).rows) for name in names):
        raise ValueError(
            f"trace {trace.source}: {method!r} does not say what a step of plain decoding takes; fit a method without "
            f"drafts first (--after METHOD; notebook 08 times one); timed were {', '.join(trace.methods)}"
        )
    if not any(_drafts_alone(trace.method(name).rows) for name in names):
        raise ValueError(
            f"trace {trace.source}: {' and '.join(map(repr, names))} do not say what a step of the drafter takes; fit "
            f"a method that drafts after the prefill first (--after METHOD); timed were {', '.join(trace.methods)}"
        )
    about = {"device": trace.device, "precision": trace.precision, "pair": trace.pair, "versions": trace.versions}
    return replace(costs, **about)  # type: ignore[arg-type]


def recorded_schedule(trace: Trace) -> Replay:
    """What the timed runs did, as `replay` would say it: for `CostModel.predict`, at gamma `gammas[0]`.

    The gamma is the longest draft of all; where methods at several gammas are mixed, the bound is that of the largest.

    Raises:
        ValueError: no rows, or rows whose rounds were not recorded.
    """
    if not trace.rows or not all(row.rounds or row.num_tokens == 1 for row in trace.rows):
        raise ValueError(f"trace {trace.source}: expected rows with their rounds")
    gamma = max((drafted for row in trace.rows for drafted, *_ in row.rounds), default=0)
    return Replay.from_rounds([row.rounds for row in trace.rows], gamma)


def _is_plain(rows: Sequence[TraceRow]) -> bool:
    return not any(drafted for row in rows for drafted, *_ in row.rounds)


def _drafts_alone(rows: Sequence[TraceRow]) -> bool:
    """Whether the drafter's step can be told: a draft after the prefill, or, of sums, the seconds of the one ahead."""
    if not all(row.events for row in rows):
        return any("draft" in row.drafter_stages for row in rows)
    for row in rows:
        ahead = any("free" in event.info for event in row.events)
        if any(drafted for drafted, *_ in row.rounds[ahead:]):
            return True
    return False


def _fit_plain(rows: Sequence[TraceRow], base: Costs) -> Costs:
    steps = sum(row.num_tokens - 1 for row in rows)
    stages = _stages(rows)
    if not stages or not steps or not all("decode" in row.target_stages for row in rows):
        raise ValueError(f"{rows[0].method!r}: expected the seconds of reading and of decoding, or events")
    return replace(base, target_step=sum(row.target_stages["decode"] for row in rows) / steps, target_stages=stages)


def _fit_one_draft(rows: Sequence[TraceRow], base: Costs) -> Costs:
    if any(drafted for row in rows for drafted, *_ in row.rounds[1:]) or not base.target_prefill:
        raise ValueError(
            f"{rows[0].method!r}: sums of stages give a verification away only where it is the one of its answer, "
            "and plain decoding was fitted before it"
        )
    verify = fmean(row.target_stages["decode"] - base.target_step * (len(row.rounds) - 1) for row in rows)
    sizes = [row.rounds[0][0] for row in rows]
    prefill = fmean(row.target_stages["prefill"] for row in rows)
    return replace(
        base,
        # The drafts are nearly of one size: no slope can be told from them.
        verify={size: verify for size in sorted({1, max(sizes)})},
        drafter_step=fmean(row.drafter_stages["draft"] / size for row, size in zip(rows, sizes) if size),
        drafter_stages={"prefill": fmean(row.drafter_stages["prefill"] for row in rows)},
        call_overhead=fmean(row.drafter_stages.get("adapter", 0.0) for row in rows),
        contention_target=prefill / base.target_prefill,
    )


def _stages(rows: Sequence[TraceRow]) -> dict[str, float]:
    return {s: fmean(row.target_stages[s] for row in rows) for s in READING if all(s in r.target_stages for r in rows)}
