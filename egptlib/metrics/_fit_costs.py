"""Costs from runs that were timed: what each part took where it really ran, between the other parts.

A pass that is timed again and again by itself finds its weights in the caches; in a round it comes after the other
model's. So costs that are to foretell runs are best taken from runs, of other samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import fmean
from typing import Protocol, runtime_checkable

import numpy as np

from egptlib._clock import READING, Event
from egptlib.metrics._costs import Costs

_ENOUGH = 5  # passes of one size that make a mean; rarer sizes are interpolated


@runtime_checkable
class TimedRun(Protocol):
    """An answer with its rounds (drafted, accepted, gained) and its events; `decoding.Generation` is one."""

    @property
    def rounds(self) -> Sequence[tuple[int, int, int]]: ...
    @property
    def events(self) -> Sequence[Event]: ...


@dataclass
class _Parts:
    """What was found in runs, in seconds."""

    reading: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # by lane and stage
    passes: dict[int, list[float]] = field(default_factory=dict)  # target passes by draft tokens
    drafts: list[tuple[float, float, float, float]] = field(default_factory=list)  # 1, tokens, after a full one; took
    ahead: list[tuple[int, float]] = field(default_factory=list)  # free drafts: tokens, took
    beside: bool = False  # the drafter worked while the target read
    rest: list[tuple[float, float, float]] = field(default_factory=list)  # 1, rounds; what no event accounts for

    def add(self, run: TimedRun, whole: float) -> None:
        events = sorted(run.events, key=lambda event: event.start)
        reads = [e for e in events if e.lane == "target" and e.stage in READING]
        begin, ready = min(e.start for e in reads), max(e.end for e in reads)
        free, busy = False, 0.0
        judged, proposed = [], []
        for event in events:
            took = event.end - event.start
            if event.stage in READING:
                self.reading.setdefault((event.lane, event.stage), []).append(took)
            elif event.lane == "target":
                judged.append(took)
                free |= "free" in event.info
            elif event.start < ready:
                self.ahead.append((int(event.info["drafted"]), took))
            elif "depth" in event.info:
                raise ValueError("fit: runs that draft trees, a pass a level: expected runs that draft chains")
            else:
                proposed.append(took)
            beside = event.lane == "drafter" and event.start < ready and event.end > begin
            self.beside |= beside
            busy += 0.0 if beside else took
        waiting, full = iter(proposed), False
        for i, ((drafted, accepted, _), took) in enumerate(zip(run.rounds, judged, strict=True)):
            self.passes.setdefault(drafted, []).append(took)
            if drafted and not (free and i == 0):
                self.drafts.append((1.0, float(drafted), float(full), next(waiting)))
            full = drafted > 0 and accepted == drafted
        self.rest.append((1.0, float(len(run.rounds)), whole - busy))


def fit_costs(runs: Sequence[TimedRun], seconds: Sequence[float], base: Costs) -> Costs:
    """Fit what the parts of one method cost, from runs of it at one or more gammas.

    Reading and passes are means over the runs, since it is totals that are foretold. The seconds of a draft are fitted
    as an overhead and a step a token, those that whole calls took beyond their events as a share a round and a share a
    call (least squares, none below 0).

    Args:
        runs: all with the drafter beside the target while that reads, or none so. Beside it, `contention_*` compare
            the stages of both with those of `base`, which then have to be those of runs in sequence.
        seconds: of each whole call.
        base: gives what the runs do not say. Runs of plain decoding say what the target's steps cost in it, and its
            stages and overheads.

    Raises:
        ValueError: no runs, another number of times, no target pass in any, or drafts that are trees.
    """
    if not runs or len(runs) != len(seconds):
        raise ValueError(f"fit: expected as many times as runs, and at least one, got {len(seconds)} and {len(runs)}")
    parts = _Parts()
    for run, whole in zip(runs, seconds):
        parts.add(run, whole)
    stages = {
        lane: {stage: fmean(parts.reading[lane, stage]) for stage in READING if (lane, stage) in parts.reading}
        for lane in ("target", "drafter")
    }
    fitted = {
        size: fmean(values)
        for size, values in parts.passes.items()
        if len(values) >= _ENOUGH or size not in range(min(parts.passes) + 1, max(parts.passes))
    }
    free_tokens = sum(count for count, _ in parts.ahead)
    call_overhead, round_overhead = least_squares(parts.rest)
    if parts.passes.keys() <= {0}:
        if not parts.passes:
            raise ValueError("fit: expected target passes in the runs, found none")
        return replace(
            base,
            target_step=fmean(parts.passes[0]),
            target_stages=stages["target"],
            round_overhead=round_overhead,
            call_overhead=call_overhead,
        )
    draft_overhead, step, another = least_squares(parts.drafts) if parts.drafts else (0.0, 0.0, 0.0)
    costs = replace(
        base,
        verify=base.verify | fitted,
        drafter_step=step or base.drafter_step,
        drafter_passes={2: (step or base.drafter_step) + another},
        free_draft_step=sum(took for _, took in parts.ahead) / free_tokens if free_tokens else 0.0,
        draft_overhead=draft_overhead,
        round_overhead=round_overhead,
        call_overhead=call_overhead,
    )
    if not parts.beside:
        return replace(costs, target_stages=stages["target"], drafter_stages=stages["drafter"])
    return replace(
        costs,
        contention_target=sum(stages["target"].values()) / base.target_prefill,
        contention_drafter=sum(stages["drafter"].values()) / base.drafter_prefill,
    )


def least_squares(rows: Sequence[Sequence[float]]) -> list[float]:
    """Coefficients of 0 or more that fit the last column by the others; exact for so few columns."""
    table = np.array(rows, dtype=float)
    x, y = table[:, :-1], table[:, -1]
    best, least = np.zeros(x.shape[1]), float("inf")
    for chosen in product([False, True], repeat=x.shape[1]):
        if not any(chosen):
            continue
        found = np.zeros(x.shape[1])
        found[list(chosen)] = np.linalg.lstsq(x[:, chosen], y, rcond=None)[0]
        error = float(((x @ found - y) ** 2).sum())
        if (found >= 0).all() and error < least:
            best, least = found, error
    return best.tolist()
