"""The sensor's clock: what came when, and what both models did with it before and after the window closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from egptlib._clock import Event
from egptlib.figures._basic import EXACT_COLOR, _panels, _styled, _tell_beside
from egptlib.figures._style import DOUBLE_COLUMN, NEUTRAL_COLOR, PALETTE
from egptlib.figures._timeline import _LANES, _READING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SENSOR_COLOR, _PREVIEW_COLOR = PALETTE[3], PALETTE[4]


@_styled
def stream_figure(
    events: Sequence[Event],
    frames: Sequence[float],
    event_times: Any,
    answers: Mapping[str, tuple[float, float]],
) -> Figure:
    """Sensor, drafter and target as lanes, the whole window on the left, what follows its last frame on the right.

    Args:
        events: both models' work, stamped by one clock in seconds.
        frames: when each frame was exposed, on the same clock; the window closes with the last one.
        event_times: [N] when the camera's events came.
        answers: label -> seconds from the last frame to the first token and to the end of the answer; the first one is
            that of `events`. The others get a lane each.

    Raises:
        ValueError: no frames, or no answer.
    """
    if not frames or not answers:
        raise ValueError(f"stream: expected frames and answers, found {len(frames)} and {len(answers)}")
    closed = frames[-1]
    others = list(answers.items())[1:]
    lanes = ["sensor", "drafter", "target", *(label for label, _ in others)]
    figure, (whole, after) = _panels(DOUBLE_COLUMN, 1.35 + 0.42 * len(lanes), 1, 2, sharey=True, width_ratios=[5, 4])
    longest = 1e3 * max(last for _, last in answers.values())
    opened = 1e3 * (min([*frames, *(e.start for e in events)]) - closed)
    rate, edges = np.histogram(1e3 * (np.asarray(event_times, dtype=float) - closed), bins=np.arange(opened, 1.0, 10.0))
    for axes in (whole, after):
        axes.grid(visible=False)
        if rate.any():
            axes.stairs(0.3 - 0.6 * rate / rate.max(), edges, baseline=0.3, fill=True, color=_SENSOR_COLOR, alpha=0.5)
        axes.vlines([1e3 * (at - closed) for at in frames], -0.42, 0.3, color=EXACT_COLOR, linewidth=1.2)
        for y, lane in enumerate(_LANES, start=1):
            for event in (e for e in events if e.lane == lane):
                bar = [(1e3 * (event.start - closed), 1e3 * (event.end - event.start))]
                color = _PREVIEW_COLOR if event.stage == "preview" else _LANES[lane]
                shade = _READING.get(event.stage, 1.0)
                axes.broken_barh(bar, (y - 0.3, 0.6), color=color, alpha=shade, edgecolor="white", linewidth=0.3)
        axes.axvline(0, color=EXACT_COLOR, linewidth=0.8, linestyle=":")
    for y, (first, last) in enumerate([answers[next(iter(answers))], *(times for _, times in others)], start=2):
        if y > 2:
            after.broken_barh([(0, 1e3 * last)], (y - 0.3, 0.6), color=NEUTRAL_COLOR, alpha=0.35)
        after.plot([1e3 * first], [y - 0.36], marker="v", color=EXACT_COLOR, markersize=4, clip_on=False)
        _tell_beside(after, f"{1e3 * last:.0f} ms", 1e3 * last, y, 7)
    whole.set(xlim=(opened, 0), ylim=(len(lanes) - 0.5, -0.6), xlabel="time to the last frame (ms)")
    after.set(xlim=(-0.12 * longest, 1.16 * longest), xlabel="time from the last frame (ms)")
    whole.set_yticks(range(len(lanes)), lanes)
    _legend(figure)
    return figure


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_SENSOR_COLOR, alpha=0.5, label="events a second"),
        Line2D([], [], color=EXACT_COLOR, linewidth=1.2, label="frame"),
        *(Patch(color=NEUTRAL_COLOR, alpha=shade, label=stage) for stage, shade in _READING.items()),
        Patch(color=NEUTRAL_COLOR, label="draft, verify"),
        Patch(color=_PREVIEW_COLOR, label="preview"),
        Line2D([], [], color=EXACT_COLOR, marker="v", markersize=4, linewidth=0, label="first token"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=6.5, handlelength=1.1,
        columnspacing=0.9,
    )  # fmt: skip
