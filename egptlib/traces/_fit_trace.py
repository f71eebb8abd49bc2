"""Costs and totals of a trace, and what its timed runs did in the form that the cost model reads."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from egptlib._clock import READING, Event
from egptlib.metrics import Costs, Replay, RunTotals, fit_costs
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
        ValueError: no rows, rows whose rounds were not recorded, or whose drafts were trees.
    """
    if any("depth" in event.info for row in trace.rows for event in row.events):
        raise ValueError(f"trace {trace.source}: drafts that are trees: the cost model counts a drafter step a token")
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


_PARTS = ("reading", "target", "draft")  # in the order in which a moment counts


def trace_totals(trace: Trace) -> list[RunTotals]:
    """Return one total a method that was timed; plain decoding has one token a pass and no gamma.

    Raises:
        ValueError: no method was timed, or one has answers without rounds or seconds.
    """
    made = [_method(trace, name) for name in trace.methods]
    if not made:
        raise ValueError(f"trace {trace.source}: no run in it was timed")
    return made


def _method(trace: Trace, name: str) -> RunTotals:
    rows = trace.method(name).rows
    if any(row.total_seconds is None or not (row.rounds or row.num_tokens == 1) for row in rows):
        raise ValueError(f"trace {trace.source}: {name!r} has answers whose rounds or total_seconds are not known")
    tokens, seconds = sum(row.num_tokens for row in rows), sum(row.total_seconds or 0.0 for row in rows)
    rounds = [r for row in rows for r in row.rounds]
    gained, longest = sum(r[2] for r in rounds), max((r[0] for r in rounds), default=0)
    beside = sum(e.info["drafted"] - e.info["depth"] for row in rows for e in row.events if "depth" in e.info)  # trees
    parts = [sum(own) for own in zip(*(_seconds(row) for row in rows))] if all(row.events for row in rows) else None
    if not rounds or not gained:
        raise ValueError(f"trace {trace.source}: {name!r} has no round beyond its first tokens")
    drafts = [r for r in rounds if r[0]]
    return RunTotals(
        float(tokens),
        seconds,
        name,
        tokens_per_pass=gained / len(rounds) if longest else 1.0,
        gamma=(sum(r[0] for r in rounds) - beside) / len(rounds) if longest else None,
        accepted_at=tuple(sum(r[1] >= n for r in drafts) / len(rounds) for n in range(1, longest + 1)),
        step_seconds=(seconds - parts[0]) / gained if parts else None,
        draft_seconds=parts[2] / len(rounds) if parts and longest else None,
        verify_seconds=parts[1] / len(rounds) if parts and longest else None,
        answers=float(tokens - gained) if parts else 0.0,
    )


def _seconds(row: TraceRow) -> list[float]:
    """Seconds of each part; where two models worked at once, the earlier part counts."""
    of = {part: [e for e in row.events if _part(e) == part] for part in _PARTS}
    covered: list[tuple[float, float]] = []
    seconds = []
    for part in _PARTS:
        before = _length(covered)
        covered = [*covered, *((e.start, e.end) for e in of[part])]
        seconds.append(_length(covered) - before)
    return seconds


def _part(event: Event) -> str:
    if event.stage in READING:
        return "reading"
    return "target" if event.lane == "target" else "draft"


def _length(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
