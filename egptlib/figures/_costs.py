"""Figures of what passes cost: verification by the length of a draft, and where the time of a step goes."""

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

from egptlib.figures._basic import (
    _MARKERS,
    _PART_COLORS,
    _SERIES_COLORS,
    _lying_bars,
    _new_figure,
    _styled,
    _tell_beside,
)
from egptlib.figures._style import DOUBLE_COLUMN, NEUTRAL_COLOR

if TYPE_CHECKING:  # metrics loads torch, which no figure needs
    from matplotlib.figure import Figure

    from egptlib.metrics import Costs


@_styled
def verify_cost_figure(costs: Mapping[str, "Costs"]) -> "Figure":
    """Cost of verifying gamma draft tokens in target steps, and in milliseconds, one line a precision.

    Args:
        costs: label -> measured costs; c and T_p(1) are written beside the label.
    """
    figure = _new_figure(DOUBLE_COLUMN, 3.0)
    ratio, clock = figure.subplots(1, 2)
    for (label, cost), color, marker in zip(costs.items(), cycle(_SERIES_COLORS), cycle(_MARKERS)):
        gammas = sorted(cost.verify)
        line = {"color": color, "marker": marker, "markersize": 3, "linewidth": 1.1}
        told = f"{label}: T_p(1) {1e3 * cost.target_step:.1f} ms, c {cost.cost_ratio:.2f}"
        ratio.plot(gammas, [cost.verify_cost(gamma) for gamma in gammas], label=told, **line)
        clock.plot(gammas, [1e3 * cost.verify[gamma] for gamma in gammas], **line)
    ratio.axhline(1, color=NEUTRAL_COLOR, linewidth=0.9, linestyle="--")
    ratio.set(xlabel="draft tokens verified (gamma)", ylabel="verify cost (target steps)", ylim=(0, None))
    clock.set(xlabel="draft tokens verified (gamma)", ylabel="one target pass (ms)", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=min(2, len(costs)))
    return figure


@_styled
def step_parts_figure(parts: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Time of one step by part, one bar a model (and precision), with the whole behind it.

    Args:
        parts: label -> part -> SECONDS (`egptlib.models.step_parts`); drawn in milliseconds.
    """
    figure, axes = _lying_bars(DOUBLE_COLUMN * 0.9, 0.95 + 0.33 * len(parts))
    names = list(next(iter(parts.values())))
    for place, seconds in enumerate(parts.values()):
        left = 0.0
        for name, color in zip(names, cycle(_PART_COLORS)):
            width = 1e3 * seconds[name]
            axes.barh(place, width, 0.68, left=left, color=color, label=None if place else name)
            left += width
        _tell_beside(axes, f"{left:.2f} ms", left, place, 7.5)
    axes.set_yticks(range(len(parts)), list(parts))
    axes.invert_yaxis()
    axes.set(xlabel="time of one step (ms)", xlim=(0, 1.14e3 * max(sum(part.values()) for part in parts.values())))
    figure.legend(loc="outside lower center", ncols=3)
    return figure
