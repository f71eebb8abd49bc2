"""Costs from a trace of timed runs, whose rows hold sums: what `metrics.fit_costs` does with events."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np

from egptlib.metrics import Costs, least_squares
from egptlib.traces._trace import Trace, TraceRow

_READING = ("preprocess", "vision", "prefill")
_MOST_SIZES = 4  # sizes of drafts whose passes get a cost of their own; those between are interpolated


def costs_from_trace(trace: Trace, base: Costs | None = None) -> Costs:
    """Fit the costs of a method that drafts after the prefill, at one or more gammas.

    Args:
        trace: rows of timed runs of that method alone (`Trace.select`): rounds, stages and total times.
        base: gives what such runs do not say: `target_step` and contention of plain and overlapped runs. None: the
            passes that judged nothing stand for plain steps.

    Raises:
        ValueError: no row, one that was not timed, or none that drafts.
    """
    rows = trace.rows
    for i, row in enumerate(rows):
        if not row.rounds or row.total_seconds is None or not row.target_stages:
            raise ValueError(f"trace {trace.source}: row {i} ({row.sample}): expected rounds, stages and a total time")
    sizes = Counter(drafted for row in rows for drafted in row.rounds[::2])
    drafting = sorted(size for size in sizes if size)
    if not drafting:
        raise ValueError(f"trace {trace.source}: expected rows of timed runs that draft, found none")
    frequent = [size for size, _ in sizes.most_common() if size][: _MOST_SIZES - 2]
    knots = sorted({drafting[0], drafting[-1], *frequent})
    verify = least_squares([[*_shares(row, knots), row.target_stages.get("verify", 0.0)] for row in rows])
    costs_of = dict(zip(knots, verify))
    steps = sum(row.target_stages.get("step", 0.0) for row in rows)
    if sizes[0]:
        costs_of[0] = steps / sizes[0]
    overhead, step, another = least_squares([_drafts(row) for row in rows])
    call, around = least_squares([_rest(row) for row in rows])
    if base is None and not sizes[0]:
        raise ValueError(f"trace {trace.source}: no pass without a draft says what a plain step costs: give a base")
    start = base or Costs(costs_of[0], step)
    stages = {
        lane: {stage: float(np.mean(trace.stage_seconds(lane, stage))) for stage in _READING if stage in found}
        for lane, found in (("target", rows[0].target_stages), ("drafter", rows[0].drafter_stages))
    }
    return replace(
        start,
        drafter_step=step or start.drafter_step,
        verify=start.verify | {size: seconds for size, seconds in costs_of.items() if seconds > 0},
        drafter_passes={2: (step or start.drafter_step) + another},
        target_stages=stages["target"],
        drafter_stages=stages["drafter"],
        draft_overhead=overhead,
        round_overhead=around,
        call_overhead=call,
        device=trace.device,
        precision=trace.precision,
        pair=trace.pair,
        versions=dict(trace.versions),
    )


def _shares(row: TraceRow, knots: list[int]) -> list[float]:
    """How many passes of each size a row had, those between two sizes shared between both."""
    shares = np.zeros(len(knots))
    for drafted in row.rounds[::2]:
        if drafted:
            shares += [np.interp(drafted, knots, one) for one in np.eye(len(knots))]
    return shares.tolist()


def _drafts(row: TraceRow) -> list[float]:
    """Drafts, their tokens, drafts after a round that kept every one; seconds."""
    rounds = list(zip(row.rounds[::2], row.rounds[1::2]))
    after = sum(0 < before[0] == before[1] and now[0] > 0 for before, now in itertools.pairwise(rounds))
    drafted = [d for d, _ in rounds if d]
    return [float(len(drafted)), float(sum(drafted)), float(after), row.drafter_stages.get("draft", 0.0)]


def _rest(row: TraceRow) -> list[float]:
    """1, rounds; seconds that no stage accounts for (loading stands outside the call)."""
    busy = sum(s for stages in (row.target_stages, row.drafter_stages) for n, s in stages.items() if n != "load")
    return [1.0, len(row.rounds) / 2, float(row.total_seconds or 0.0) - busy]
