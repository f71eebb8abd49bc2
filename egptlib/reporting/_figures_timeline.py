"""The timeline: what each model did when, plain decoding above, speculative below, drawn from stamped events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from egptlib.reporting._figures import _new_figure, _styled
from egptlib.reporting._style import DOUBLE_COLUMN, DRAFTER_COLOR, NEUTRAL_COLOR, PALETTE, TARGET_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STAGE_ALPHA = {
    "preprocess": 0.25,
    "vision": 0.45,
    "prefill": 0.7,
    "draft": 1.0,
    "verify": 1.0,
    "step": 1.0,
    "decode": 1.0,
}
_ACCEPTED_COLOR = PALETTE[2]
_MODELS = {"target": TARGET_COLOR, "drafter": DRAFTER_COLOR}


class StampedEvent(Protocol):
    """What is drawn: `egptlib.decoding.Event`, or anything like it."""

    @property
    def lane(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def info(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Span:
    """A stretch of work that was put together from several events or from a result file; seconds."""

    lane: str
    stage: str
    start: float
    end: float
    info: Mapping[str, Any] = field(default_factory=dict)


@_styled
def timeline_figure(
    plain: Sequence[StampedEvent], speculative: Sequence[StampedEvent], tag: str, title: str = ""
) -> "Figure":
    """Both models as lanes against time; beside them the share of each stage.

    Above each verification stands accepted/drafted. Stages of one model overlap in time with the other's only where
    they really ran at the same time.

    Args:
        plain: events of plain decoding by the target.
        speculative: events of the run with a drafter.
        tag: where the times come from, e.g. "measured (overlapped)"; stands beside the speedup.

    Raises:
        ValueError: no events on one of the sides.
    """
    if not plain or not speculative:
        raise ValueError("timeline: expected events of plain and of speculative decoding, found none")
    figure = _new_figure(DOUBLE_COLUMN, 2.6)
    axes, shares = figure.subplots(1, 2, width_ratios=[3, 1])
    rows = [("plain", "target", plain), ("speculative", "target", speculative), ("speculative", "drafter", speculative)]
    seconds = [max(e.end for e in side) - min(e.start for e in side) for side in (plain, speculative)]
    longest = 1e3 * max(seconds)
    for y, (_, lane, events) in enumerate(rows):
        origin, labelled = min(e.start for e in events), 0.0
        for event in (e for e in events if e.lane == lane):
            left, width = 1e3 * (event.start - origin), 1e3 * (event.end - event.start)
            axes.barh(
                y, width, left=left, height=0.6, color=_MODELS[lane], alpha=_STAGE_ALPHA.get(event.stage, 1.0),
                edgecolor="white", linewidth=0.3,
            )  # fmt: skip
            if event.stage == "verify":
                text = _mark_verification(axes, left, width, y, event.info)
                half = 0.006 * longest * len(text)  # as wide as it is printed, about
                if left + width / 2 - half >= labelled:  # else it would lie on its neighbor
                    axes.text(left + width / 2, y - 0.42, text, ha="center", va="bottom", fontsize=5.5)
                    labelled = left + width / 2 + half
            elif width > 0.11 * longest:
                axes.text(left + width / 2, y, event.stage, ha="center", va="center", fontsize=6)
    axes.set_yticks(range(3), ["plain\ntarget", "speculative\ntarget", "\ndrafter"])
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("ms; above a verification: accepted/drafted, green: accepted, grey: rejected")
    axes.set_title(f"{title + ': ' if title else ''}{seconds[0] / seconds[1]:.2f}x [{tag}]")
    _draw_shares(shares, plain, speculative)
    return figure


def _mark_verification(axes: Any, left: float, width: float, y: float, info: Mapping[str, Any]) -> str:
    """A line of two colors above a verification; returns accepted/drafted as text."""
    accepted, drafted = info.get("accepted", 0), info.get("drafted", 0)
    middle = left + width * accepted / drafted if drafted else left
    for begin, end, color in ((left, middle, _ACCEPTED_COLOR), (middle, left + width, NEUTRAL_COLOR)):
        if end > begin:
            axes.plot([begin, end], [y - 0.36, y - 0.36], color=color, linewidth=2, solid_capstyle="butt")
    return f"{accepted:.2g}/{drafted:.2g}"


def stage_seconds(events: Sequence[StampedEvent]) -> dict[tuple[str, str], float]:
    """Seconds by (lane, stage), in order of first occurrence."""
    seconds: dict[tuple[str, str], float] = {}
    for event in sorted(events, key=lambda e: e.start):
        key = (event.lane, event.stage)
        seconds[key] = seconds.get(key, 0.0) + event.end - event.start
    return seconds


def mean_run(runs: Sequence[Sequence[StampedEvent]]) -> list[Span]:
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
    loops: list[tuple[float, float, list[StampedEvent]]] = []
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
        Span(lane, stage, fmean(a for a, _ in at), fmean(b for _, b in at)) for (lane, stage), at in before.items()
    ]
    return spans + _mean_rounds(loops)


def _mean_stages(runs: Sequence[Sequence[StampedEvent]]) -> list[Span]:
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
        spans.append(Span(lane, stage, start, end, info if stage == "verify" else {}))
    return spans


def _mean_rounds(loops: Sequence[tuple[float, float, list[StampedEvent]]]) -> list[Span]:
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
            spans.append(Span("drafter", "draft", after - reading - drafting, after - reading))
        spans.append(Span("target", "verify" if verified else "step", after - reading, after, info))
    return spans


def recorded_runs(row: Mapping[str, Any]) -> tuple[list[Span], list[Span]]:
    """Both sides of a row of a recorded five-stage file, laid out as if both models had begun at once.

    The file holds each model's run alone, so the overlap is computed. The draft is what fits before the target has
    read its prompt, cut there; the leading tokens that are equal are accepted. A verification is not in the file: it is
    taken to last no longer than a step, which is the least it can. Reading the input from disk is left out.

    Args:
        row: of `egptlib.traces.open_recorded`, kind `five_stage`.
    """
    target, drafter = row["target_stages"], row["drafter_stages"]
    target_ids, drafter_ids = row["target_ids"], row["drafter_ids"]
    plain = _in_a_row("target", {s: target[s] for s in (*_PROMPT_STAGES, "decode")})
    speculative = _in_a_row("target", {s: target[s] for s in _PROMPT_STAGES})
    ready = speculative[-1].end
    step, draft = target["decode"] / len(target_ids), drafter["decode"] / max(1, len(drafter_ids))
    beside = _in_a_row("drafter", {s: drafter[s] for s in _PROMPT_STAGES})
    free = min(len(drafter_ids), int(max(0.0, ready - beside[-1].end) / draft)) if draft else 0
    equal = [a == b for a, b in zip(drafter_ids[:free], target_ids)]
    accepted = equal.index(False) if False in equal else len(equal)
    left = max(0, len(target_ids) - accepted - 1)
    if free:
        beside.append(Span("drafter", "draft", beside[-1].end, beside[-1].end + free * draft))
    info = {"drafted": free, "accepted": accepted}
    speculative.append(Span("target", "verify" if free else "step", ready, ready + step, info))
    if left:
        speculative.append(Span("target", "decode", ready + step, ready + (left + 1) * step))
    return plain, speculative + beside


_PROMPT_STAGES = ("preprocess", "vision", "prefill")


def _in_a_row(lane: str, seconds: Mapping[str, float]) -> list[Span]:
    spans, at = [], 0.0
    for stage, value in seconds.items():
        spans.append(Span(lane, stage, at, at + value))
        at += value
    return spans


@_styled
def prediction_figure(predicted: Mapping[str, float], measured: Mapping[str, float]) -> "Figure":
    """Mean time of an answer by method: measured (filled) and predicted (hatched), with the error of the prediction.

    Args:
        predicted, measured: method -> SECONDS; drawn in milliseconds.
    """
    figure = _new_figure(DOUBLE_COLUMN * 0.85, 0.9 + 0.42 * len(measured))
    axes = figure.subplots()
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    most = 1e3 * max(*predicted.values(), *measured.values())
    for place, (method, seconds) in enumerate(measured.items()):
        clock, model = 1e3 * seconds, 1e3 * predicted[method]
        axes.barh(place - 0.19, clock, 0.36, color=TARGET_COLOR, label="measured" if not place else None)
        axes.barh(
            place + 0.19, model, 0.36, facecolor="white", edgecolor=TARGET_COLOR, hatch="////",
            label="predicted" if not place else None,
        )  # fmt: skip
        axes.annotate(
            f"{clock:.0f} ms, predicted {model:.0f}: {model / clock - 1:+.1%}", (max(clock, model), place),
            xytext=(3, 0), textcoords="offset points", va="center", fontsize=7,
        )  # fmt: skip
    axes.set_yticks(range(len(measured)), list(measured))
    axes.invert_yaxis()
    axes.set(xlabel="time of an answer (ms)", xlim=(0, most * 1.45))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_shares(axes: Any, plain: Sequence[StampedEvent], speculative: Sequence[StampedEvent]) -> None:
    """One stacked bar a side: the share of each stage in the work of both models."""
    for x, events in enumerate((plain, speculative)):
        seconds, bottom = stage_seconds(events), 0.0
        total = sum(seconds.values())
        for (lane, stage), value in seconds.items():
            share = 100 * value / total
            axes.bar(
                x, share, bottom=bottom, width=0.9, color=_MODELS[lane], alpha=_STAGE_ALPHA.get(stage, 1.0),
                edgecolor="white", linewidth=0.5,
            )  # fmt: skip
            if share > 7:
                axes.text(x, bottom + share / 2, f"{stage} {share:.0f}", ha="center", va="center", fontsize=5.5)
            bottom += share
    axes.set_xticks([0, 1], ["plain", "spec."])
    axes.set_ylabel("% of both models' work")
    axes.grid(visible=False)
