"""What a timeline is drawn from: stamped events, their sums, the mean of many runs, rows of recorded files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from egptlib._clock import READING, Event

if TYPE_CHECKING:  # metrics loads torch, which no figure needs
    from pandas import DataFrame


def event_table(**sides: Sequence[Event]) -> DataFrame:
    """One row an event, with the side it belongs to: the data behind a timeline."""
    import pandas as pd

    rows = [(side, e.lane, e.stage, e.start, e.end) for side, events in sides.items() for e in events]
    return pd.DataFrame(rows, columns=["side", "lane", "stage", "start", "end"])


def mean_run(runs: Sequence[Sequence[Event]]) -> list[Event]:
    """One run with the mean times of many, its end included.

    Up to the end of the target's prefill every stage begins and ends at the mean of where it did. After it stands the
    mean number of rounds, all alike, whose drafts and target passes add up to the mean of their sums. Runs in which no
    stage comes twice, as recorded ones, have no rounds: all their stages are treated like the first ones.

    Raises:
        ValueError: no runs, or one in which the target never prefills.
    """
    if not runs:
        raise ValueError("mean of runs: expected at least one run, found none")
    if all(len({(e.lane, e.stage) for e in run}) == len(run) for run in runs):
        return _mean_stages(runs)
    before: dict[tuple[str, str], list[tuple[float, float]]] = {}
    loops: list[tuple[float, float, list[Event]]] = []
    for run in runs:
        origin = min(e.start for e in run)
        reading = max((e.end for e in run if (e.lane, e.stage) == ("target", "prefill")), default=None)
        if reading is None:
            raise ValueError("mean of runs: expected a prefill of the target in every run, found one without")
        stages: dict[tuple[str, str], tuple[float, float]] = {}
        for e in (e for e in run if e.start < reading):
            start, end = stages.get((e.lane, e.stage), (e.start, e.end))
            stages[e.lane, e.stage] = (min(start, e.start), max(end, e.end))
        for key, (start, end) in stages.items():
            before.setdefault(key, []).append((start - origin, end - origin))
        late = [e for e in run if e.start >= reading]
        loops.append((reading - origin, max(e.end for e in run) - origin, late))
    spans = [
        Event(lane, stage, fmean(a for a, _ in at), fmean(b for _, b in at)) for (lane, stage), at in before.items()
    ]
    return spans + _mean_rounds(loops)


def _mean_stages(runs: Sequence[Sequence[Event]]) -> list[Event]:
    """`mean_run` of runs in which no stage comes twice."""
    found: dict[tuple[str, str], list[tuple[float, float, Mapping[str, Any]]]] = {}
    for run in runs:
        origin = min(e.start for e in run)
        for e in run:
            found.setdefault((e.lane, e.stage), []).append((e.start - origin, e.end - origin, e.info))
    spans = []
    for (lane, stage), places in found.items():
        info = {key: fmean(i.get(key, 0) for *_, i in places) for key in ("accepted", "drafted")}
        start, end = fmean(a for a, *_ in places), fmean(b for _, b, _ in places)
        spans.append(Event(lane, stage, start, end, info if stage == "verify" else {}))
    return spans


def _mean_rounds(loops: Sequence[tuple[float, float, list[Event]]]) -> list[Event]:
    """The rounds of `mean_run`: (begin, end, events) of the loop of every run in, spans out."""
    passes = [[e for e in late if e.lane == "target"] for _, _, late in loops]
    count = round(fmean(len(events) for events in passes))
    if not count:
        return []
    begin, end = fmean(a for a, _, _ in loops), fmean(b for _, b, _ in loops)
    drafting = fmean(sum(e.end - e.start for e in late if e.lane == "drafter") for _, _, late in loops) / count
    reading = fmean(sum(e.end - e.start for e in events) for events in passes) / count
    verified = [e for events in passes for e in events if e.stage == "verify"]
    info = {key: fmean(e.info.get(key, 0) for e in verified) for key in ("accepted", "drafted")} if verified else {}
    spans = []
    for i in range(count):
        after = begin + (i + 1) * (end - begin) / count
        if drafting:
            spans.append(Event("drafter", "draft", after - reading - drafting, after - reading))
        spans.append(Event("target", "verify" if verified else "step", after - reading, after, info))
    return spans


def recorded_runs(row: Mapping[str, Any]) -> tuple[list[Event], list[Event]]:
    """Both sides of a row of a recorded five-stage file, laid out as if both models had begun at once.

    The file holds each model's run alone, so the overlap is computed. The draft is what fits before the target has
    read its prompt, cut there; the leading tokens that are equal are accepted. A verification is not in the file: it is
    taken to last no longer than a step, which is the least it can. Reading the input from disk is left out.

    Args:
        row: of `egptlib.traces.open_recorded`, kind `five_stage`.
    """
    target, drafter = row["target_stages"], row["drafter_stages"]
    target_ids, drafter_ids = row["target_ids"], row["drafter_ids"]
    plain = _in_a_row("target", {s: target[s] for s in (*READING, "decode")})
    speculative = _in_a_row("target", {s: target[s] for s in READING})
    ready = speculative[-1].end
    step, draft = target["decode"] / len(target_ids), drafter["decode"] / max(1, len(drafter_ids))
    beside = _in_a_row("drafter", {s: drafter[s] for s in READING})
    free = min(len(drafter_ids), int(max(0.0, ready - beside[-1].end) / draft)) if draft else 0
    equal = [a == b for a, b in zip(drafter_ids[:free], target_ids)]
    accepted = equal.index(False) if False in equal else len(equal)
    left = max(0, len(target_ids) - accepted - 1)
    if free:
        beside.append(Event("drafter", "draft", beside[-1].end, beside[-1].end + free * draft))
    info = {"drafted": free, "accepted": accepted}
    speculative.append(Event("target", "verify" if free else "step", ready, ready + step, info))
    if left:
        speculative.append(Event("target", "decode", ready + step, ready + (left + 1) * step))
    return plain, speculative + beside


def _in_a_row(lane: str, seconds: Mapping[str, float]) -> list[Event]:
    spans, at = [], 0.0
    for stage, value in seconds.items():
        spans.append(Event(lane, stage, at, at + value))
        at += value
    return spans
