"""The timeline: what each model did when, plain decoding above, speculative below, drawn from stamped events;
and the events of the mean run and of a recorded one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from egptlib._clock import READING, Event, stage_seconds
from egptlib.figures._basic import EXACT_COLOR, _grid_across, _panels, _quick_figure, _styled
from egptlib.figures._style import (
    DOUBLE_COLUMN,
    DRAFTER_COLOR,
    NEUTRAL_COLOR,
    PALETTE,
    SINGLE_COLUMN,
    TARGET_COLOR,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_LANES = {"drafter": DRAFTER_COLOR, "target": TARGET_COLOR}
_READING = {"preprocess": 0.22, "vision": 0.42, "prefill": 0.66}  # paler than the work on the answer
_ACCEPTED_COLOR = PALETTE[2]
_CHARACTER = 0.05  # inches a digit of a verification's numbers takes


@_styled
def timeline_figure(
    plain: Sequence[Event],
    speculative: Sequence[Event],
    tag: str,
    title: str = "",
    column: bool = False,
) -> Figure:
    """Both models as lanes against time; with them the share of each stage.

    Above each verification stands accepted/drafted. Stages of one model overlap in time with the other's only where
    they really ran at the same time.

    Args:
        plain: events of plain decoding by the target.
        speculative: events of the run with a drafter.
        tag: where the times come from, e.g. "measured (overlapped)"; stands beside the speedup.
        column: for one column of a paper: the shares stand below the lanes.

    Raises:
        ValueError: no events on one of the sides.
    """
    if not plain or not speculative:
        raise ValueError("timeline: expected events of plain and of speculative decoding, found none")
    if column:
        figure, (axes, shares) = _panels(SINGLE_COLUMN, 2.85, 2, 1, height_ratios=[5, 3])
    else:
        figure, (axes, shares) = _panels(DOUBLE_COLUMN, 2.6, 1, 2, width_ratios=[5, 3])
    seconds = [max(e.end for e in side) - min(e.start for e in side) for side in (plain, speculative)]
    inches = (0.8 if column else 0.5) * figure.get_figwidth()
    longest = 1e3 * max(seconds)
    rows = [(0.0, "target", plain), (1.3, "target", speculative), (2.3, "drafter", speculative)]
    for y, lane, events in rows:
        origin = min(e.start for e in events)
        own = [e for e in events if e.lane == lane]
        _draw_lane(axes, y, lane, own, origin)
        if not column:
            _name_stages(axes, y, own, origin, 0.13 * longest)
        _mark_verifications(axes, y, own, origin, longest / inches)
    axes.set_yticks([y for y, *_ in rows], ["plain\ntarget", "speculative\ntarget", "drafter"])
    axes.set(ylim=(2.75, -0.45), xlim=(0, 1.01 * longest))
    _grid_across(axes)
    axes.set_xlabel("ms")
    heading = f"{seconds[0] / seconds[1]:.2f}x [{tag}]"
    between = "\n" if column else ": "
    axes.set_title(f"{title}{between}{heading}" if title else heading, fontsize=8 if column else 10)
    _draw_shares(shares, plain, speculative)
    _add_legend(figure, [*plain, *speculative], column)
    if column:
        for part in (axes, shares):
            part.tick_params(labelsize=7)
            part.xaxis.label.set_fontsize(7.5)
    return figure


@_styled
def timeline_cursor_figure(events: Sequence[Event], at: float | None = None) -> Figure:
    """What both models did until one moment of a run, with what each is doing then; what is to come is pale.

    Args:
        events: stamped by one clock, in seconds.
        at: milliseconds from the first event; None for the end of the run.
    """
    origin = min(event.start for event in events)
    end = 1000 * (max(event.end for event in events) - origin)
    at = end if at is None else at
    lanes = [lane for lane in _LANES if any(event.lane == lane for event in events)]
    figure = _quick_figure(DOUBLE_COLUMN, 1.05 + 0.5 * len(lanes))
    axes = figure.subplots(gridspec_kw=dict(left=0.09, right=0.985, top=0.82, bottom=0.33))
    axes.grid(visible=False)
    doing = dict.fromkeys(lanes, "waits")
    for y, lane in enumerate(lanes):
        own = [event for event in events if event.lane == lane]
        _draw_lane(axes, y, lane, own, origin, until=at)
        _mark_verifications(axes, y, own, origin, end / (0.9 * DOUBLE_COLUMN))
        for event in own:
            if event.start <= origin + at / 1000 < event.end:
                doing[lane] = event.stage
    axes.axvline(at, color=EXACT_COLOR, linewidth=1.0)
    axes.set(xlim=(0, end), ylim=(len(lanes) - 0.5, -0.72), xlabel="time since the first event (ms)")
    axes.set_yticks(range(len(lanes)), lanes)
    title = f"{at:.1f} of {end:.1f} ms" + ("" if at >= end else ": " + ", ".join(f"{k} {v}" for k, v in doing.items()))
    axes.set_title(title, fontsize=9, y=1.0)
    _add_legend(figure, events, column=False)
    return figure


def _draw_lane(
    axes: Any, y: float, lane: str, events: Sequence[Event], origin: float, until: float | None = None
) -> None:
    """One model's work as bars in its color, reading paler; what comes after `until` (ms) is faint."""
    for stage in dict.fromkeys(event.stage for event in events):
        spans = [(1e3 * (e.start - origin), 1e3 * (e.end - e.start)) for e in events if e.stage == stage]
        look = dict(color=_LANES[lane], edgecolor="white", linewidth=0.3)
        shade = _READING.get(stage, 1.0)
        if until is None:
            axes.broken_barh(spans, (y - 0.3, 0.6), alpha=shade, **look)
            continue
        axes.broken_barh(spans, (y - 0.3, 0.6), alpha=0.2 * shade, **look)
        done = [(left, min(width, until - left)) for left, width in spans if left < until]
        axes.broken_barh(done, (y - 0.3, 0.6), alpha=shade, **look)


def _name_stages(axes: Any, y: float, events: Sequence[Event], origin: float, least: float) -> None:
    """Write the stage into bars that are wider than `least` ms."""
    for event in events:
        left, width = 1e3 * (event.start - origin), 1e3 * (event.end - event.start)
        if width > least:
            color = "black" if event.stage in _READING else "white"
            axes.text(left + width / 2, y, event.stage, ha="center", va="center", fontsize=6.5, color=color)


def _mark_verifications(axes: Any, y: float, events: Sequence[Event], origin: float, ms_per_inch: float) -> None:
    """A line of two colors above each verification, and accepted/drafted where there is room to print it."""
    labelled = -1.0
    lines: dict[str, list[tuple[float, float]]] = {_ACCEPTED_COLOR: [], NEUTRAL_COLOR: []}
    for event in (e for e in events if e.stage == "verify" and "drafted" in e.info):
        accepted, drafted = event.info["accepted"], event.info["drafted"]
        left, width = 1e3 * (event.start - origin), 1e3 * (event.end - event.start)
        middle = left + width * accepted / drafted if drafted else left
        lines[_ACCEPTED_COLOR].append((left, middle))
        lines[NEUTRAL_COLOR].append((middle, left + width))
        text = f"{accepted:.2g}/{drafted:.2g}"
        half = 0.5 * _CHARACTER * len(text) * ms_per_inch
        center = left + width / 2
        if center - half >= labelled:  # else it would lie on its neighbor
            axes.text(center, y - 0.43, text, ha="center", va="bottom", fontsize=6)
            labelled = center + half
    for color, spans in lines.items():  # one artist for all: an explorer draws them at each move
        if drawn := [(begin, end) for begin, end in spans if end > begin]:
            axes.hlines([y - 0.38] * len(drawn), *zip(*drawn), colors=color, linewidth=2)


def _draw_shares(axes: Any, plain: Sequence[Event], speculative: Sequence[Event]) -> None:
    """One stacked bar a side: the share of each stage in the work of both models."""
    for y, events in enumerate((plain, speculative)):
        seconds, left = stage_seconds(events), 0.0
        total = sum(seconds.values())
        for (lane, stage), value in seconds.items():
            share = 100 * value / total
            shade = _READING.get(stage, 1.0)
            axes.barh(
                y, share, left=left, height=0.62, color=_LANES[lane], alpha=shade, edgecolor="white", linewidth=0.5
            )
            if share >= 7.5:
                axes.text(
                    left + share / 2, y, f"{share:.0f}", ha="center", va="center", fontsize=6.5,
                    color="black" if shade < 1 else "white",
                )  # fmt: skip
            left += share
    axes.set_yticks([0, 1], ["plain", "spec."])
    axes.set_ylim(1.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of both models' work (%)")
    axes.grid(visible=False)


def _add_legend(figure: Any, events: Sequence[Event], column: bool) -> None:
    """Colors of the models, how pale their reading is, and what stands above a verification."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lanes = [lane for lane in _LANES if any(event.lane == lane for event in events)]
    handles: list[Any] = [Patch(color=_LANES[lane], label=lane) for lane in lanes]
    found = {event.stage for event in events}
    handles += [Patch(color=NEUTRAL_COLOR, alpha=_READING[stage], label=stage) for stage in _READING if stage in found]
    answer = [stage for stage in ("draft", "verify", "step", "decode") if stage in found]
    handles.append(Patch(color=NEUTRAL_COLOR, label=", ".join(answer)))
    if "verify" in found:
        handles.append(Line2D([], [], color=_ACCEPTED_COLOR, linewidth=2, label="accepted/drafted"))
    quick = figure.get_layout_engine() is None
    figure.legend(
        handles=handles, loc="lower center" if quick else "outside lower center",
        ncols=3 if column else len(handles), fontsize=6.5 if column else 7, handlelength=1.2, columnspacing=1.0,
    )  # fmt: skip


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
        row: of `egptlib.recorded.open_recorded`, kind `five_stage`.
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
