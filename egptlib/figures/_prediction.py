"""What passes cost and what was foretold: predicted beside measured times, the map of acceptance and verify cost."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from egptlib.figures._basic import (
    _MARKERS,
    _SERIES_COLORS,
    EXACT_COLOR,
    _lying_bars,
    _panels,
    _stack_bars,
    _styled,
    _tell_beside,
)
from egptlib.figures._style import DOUBLE_COLUMN, DRAFTER_COLOR, NEUTRAL_COLOR, TARGET_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from egptlib.metrics import Costs, MapPoint, SpeedupMap

_LEVELS = (1.1, 1.25, 1.5, 2.0, 2.5)
_GOALS = (1.5, 2.0)  # thick, with the draft length that gives most


@_styled
def prediction_figure(predicted: Mapping[str, float], measured: Mapping[str, float]) -> "Figure":
    """Mean time of an answer by method: measured (filled) and predicted (hatched), with the error of the prediction.

    Args:
        predicted, measured: method -> SECONDS; drawn in milliseconds.
    """
    figure, axes = _lying_bars(DOUBLE_COLUMN * 0.85, 0.9 + 0.42 * len(measured))
    most = 1e3 * max(*predicted.values(), *measured.values())
    for place, (method, seconds) in enumerate(measured.items()):
        clock, model = 1e3 * seconds, 1e3 * predicted[method]
        axes.barh(place - 0.19, clock, 0.36, color=TARGET_COLOR, label="measured" if not place else None)
        axes.barh(
            place + 0.19, model, 0.36, facecolor="white", edgecolor=TARGET_COLOR, hatch="////",
            label="predicted" if not place else None,
        )  # fmt: skip
        told = f"{clock:.0f} ms, predicted {model:.0f}: {model / clock - 1:+.1%}"
        _tell_beside(axes, told, max(clock, model), place, 7)
    axes.set_yticks(range(len(measured)), list(measured))
    axes.invert_yaxis()
    axes.set(xlabel="time of an answer (ms)", xlim=(0, most * 1.45))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@_styled
def speedup_map_figure(panels: Mapping[str, tuple["SpeedupMap", Sequence[tuple[str, "MapPoint"]]]]) -> "Figure":
    """Speedup over acceptance and verify cost, a panel for each cost of drafting, with lines of equal speedup.

    Args:
        panels: title -> map, and its marked points with their labels: an arrow leads from the first to each other.
    """
    from matplotlib.colors import LinearSegmentedColormap

    figure, (axes_of,) = _panels(DOUBLE_COLUMN, 3.2, 1, len(panels), sharex=True, sharey=True, squeeze=False)
    shades = LinearSegmentedColormap.from_list("speedup", ["#FFFFFF", "#CFE3F1", "#6FAED8"])
    for axes, (title, (found, points)) in zip(axes_of, panels.items()):
        axes.grid(visible=False)
        x, y, z = found.alphas, found.verify_costs, found.speedup
        axes.contourf(x, y, z, levels=np.linspace(1.0, 2.5, 31), cmap=shades, extend="max")
        lines = axes.contour(
            x, y, z, levels=_LEVELS, colors=EXACT_COLOR,
            linewidths=[1.6 if level in _GOALS else 0.6 for level in _LEVELS],
        )  # fmt: skip
        places = [place for level in _LEVELS if (place := _high_on_the_line(found, level))]
        axes.clabel(lines, fmt=lambda level: f"{level:g}x", fontsize=7, manual=places)
        for level in _GOALS:
            _write_gammas(axes, found, level)
        for i, (label, point) in enumerate(points):
            text = f"{label}\n{point.speedup:.2f}x [{point.tag}]"
            place = (point.alpha, point.verify_cost)
            axes.plot(
                *place, "o" if not i else "s", color=DRAFTER_COLOR, markersize=5, markeredgecolor="white", zorder=4
            )
            axes.annotate(
                text, place, xytext=(-6, 0), textcoords="offset points", ha="right", va="center", fontsize=7,
                zorder=4, bbox=dict(facecolor="white", edgecolor="none", alpha=0.8, pad=0.8),
            )  # fmt: skip
            if i:
                start = (points[0][1].alpha, points[0][1].verify_cost)
                axes.annotate(
                    "", place, start, arrowprops=dict(arrowstyle="->", color=DRAFTER_COLOR, shrinkA=4, shrinkB=4)
                )
        axes.set_title(title, fontsize=8.5)
        axes.set_xlabel("acceptance of one draft token (alpha)")
    axes_of[0].set_ylabel("cost of a verification (target steps)")
    figure.supxlabel("grey: the gamma that gives most on the lines of 1.5x and 2x", fontsize=7, color=NEUTRAL_COLOR)
    return figure


def _high_on_the_line(found: "SpeedupMap", level: float) -> tuple[float, float] | None:
    """Where a line's label stands: at seven tenths of its height, away from the marked points."""
    rows = np.flatnonzero((found.speedup >= level).any(axis=1))
    if not rows.size:
        return None
    row = rows[int(0.7 * (rows.size - 1))]
    return float(found.alphas[np.argmax(found.speedup[row] >= level)]), float(found.verify_costs[row])


def _write_gammas(axes: Any, found: "SpeedupMap", level: float) -> None:
    """Write the best draft length to the right of a line, at a few verify costs it crosses."""
    for row in np.linspace(0, len(found.verify_costs) - 1, 9).astype(int)[1:-1]:
        above = np.flatnonzero(found.speedup[row] >= level)
        if above.size and above[0] > 0 and found.alphas[above[0]] < 0.985:
            axes.annotate(
                str(found.gamma[row, above[0]]), (found.alphas[above[0]], found.verify_costs[row]), xytext=(3, 0),
                textcoords="offset points", va="center", fontsize=6.5, color=NEUTRAL_COLOR,
            )  # fmt: skip


@_styled
def verify_cost_figure(costs: Mapping[str, "Costs"]) -> "Figure":
    """Cost of verifying gamma draft tokens in target steps, and in milliseconds, one line a precision.

    Args:
        costs: label -> measured costs; c and T_p(1) are written beside the label.
    """
    figure, (ratio, clock) = _panels(DOUBLE_COLUMN, 3.0, 1, 2)
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
    widths = {name: [1e3 * of_bar[name] for of_bar in parts.values()] for name in next(iter(parts.values()))}
    _stack_bars(axes, {label: place for place, label in enumerate(parts)}, widths, "{:.2f} ms", height=0.68)
    axes.set_xlabel("time of one step (ms)")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
