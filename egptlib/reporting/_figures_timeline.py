"""The timeline: what each model did when, plain decoding above, speculative below, drawn from stamped events."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from egptlib.reporting._figures import _new_figure, _styled
from egptlib.reporting._style import DOUBLE_COLUMN, DRAFTER_COLOR, NEUTRAL_COLOR, TARGET_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STAGE_ALPHA = {"preprocess": 0.25, "vision": 0.45, "prefill": 0.7, "draft": 1.0, "verify": 1.0, "step": 1.0}
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
    axes, shares = figure.subplots(1, 2, width_ratios=[3.4, 1])
    rows = [("plain", "target", plain), ("speculative", "target", speculative), ("speculative", "drafter", speculative)]
    for y, (_, lane, events) in enumerate(rows):
        origin = min(e.start for e in events)
        for event in (e for e in events if e.lane == lane):
            left, width = 1e3 * (event.start - origin), 1e3 * (event.end - event.start)
            axes.barh(
                y, width, left=left, height=0.6, color=_MODELS[lane], alpha=_STAGE_ALPHA.get(event.stage, 1.0),
                edgecolor="white", linewidth=0.3,
            )  # fmt: skip
            if event.stage == "verify":
                text = f"{event.info.get('accepted', 0)}/{event.info.get('drafted', 0)}"
                axes.text(left + width / 2, y - 0.36, text, ha="center", va="bottom", fontsize=5.5, color=NEUTRAL_COLOR)
    seconds = [max(e.end for e in side) - min(e.start for e in side) for side in (plain, speculative)]
    axes.set_yticks(range(3), ["plain\ntarget", "speculative\ntarget", "\ndrafter"])
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set_xlabel("ms; above a verification: accepted/drafted")
    axes.set_title(f"{title + ': ' if title else ''}{seconds[0] / seconds[1]:.2f}x [{tag}]")
    _draw_shares(shares, plain, speculative)
    return figure


def stage_seconds(events: Sequence[StampedEvent]) -> dict[tuple[str, str], float]:
    """Seconds by (lane, stage), in order of first occurrence."""
    seconds: dict[tuple[str, str], float] = {}
    for event in sorted(events, key=lambda e: e.start):
        key = (event.lane, event.stage)
        seconds[key] = seconds.get(key, 0.0) + event.end - event.start
    return seconds


def _draw_shares(axes: Any, plain: Sequence[StampedEvent], speculative: Sequence[StampedEvent]) -> None:
    """One stacked bar a side: the share of each stage in the work of both models."""
    for x, events in enumerate((plain, speculative)):
        seconds, bottom = stage_seconds(events), 0.0
        total = sum(seconds.values())
        for (lane, stage), value in seconds.items():
            share = 100 * value / total
            axes.bar(
                x, share, bottom=bottom, width=0.75, color=_MODELS[lane], alpha=_STAGE_ALPHA.get(stage, 1.0),
                edgecolor="white", linewidth=0.5,
            )  # fmt: skip
            if share > 7:
                axes.text(x, bottom + share / 2, f"{stage} {share:.0f}", ha="center", va="center", fontsize=5.5)
            bottom += share
    axes.set_xticks([0, 1], ["plain", "spec."])
    axes.set_ylabel("% of both models' work")
    axes.grid(visible=False)
