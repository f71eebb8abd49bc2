"""Figures across runs: what a sweep, or several datasets, did to the figures on the runs' cards."""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from egptlib.figures._basic import _MARKERS, _SERIES_COLORS, _panels, _styled
from egptlib.figures._style import DOUBLE_COLUMN, NEUTRAL_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Sequence[float | None]


@_styled
def runs_figure(labels: Sequence[str], figures: Mapping[str, Values]) -> "Figure":
    """One panel per figure, one dot per run: for runs that differ in names, such as datasets.

    Args:
        labels: of the runs, from above to below.
        figures: name with its unit -> one value per run, None where a run does not have it.
    """
    titles = [wrap(name, 72 // len(figures)) for name in figures]  # what stands beside another has no room over it
    height = 0.6 + 0.15 * max(map(len, titles)) + 0.2 * len(labels)
    figure, (grid,) = _panels(DOUBLE_COLUMN, height, 1, len(figures), sharey=True, squeeze=False)
    for axes, title, values in zip(grid, titles, figures.values()):
        axes.grid(axis="x")
        points = [(value, row) for row, value in enumerate(values) if value is not None]
        axes.hlines(range(len(labels)), *_limits(values), color="#E5E7EB", linewidth=0.6)
        axes.plot([x for x, _ in points], [y for _, y in points], "o", color=_SERIES_COLORS[0], markersize=4.5)
        axes.set(xlim=_limits(values), ylim=(len(labels) - 0.5, -0.5))
        axes.set_title("\n".join(title), fontsize=8)
        axes.locator_params(axis="x", nbins=4)
    grid[0].set_yticks(range(len(labels)), labels)
    return figure


@_styled
def sweep_figure(parameter: str, x: Sequence[float], series: Sequence[str], figures: Mapping[str, Values]) -> "Figure":
    """One panel per figure over a swept parameter, one line per series.

    Args:
        parameter: its name, for the axis.
        x: its value in each run.
        series: label of each run by its other parameters; runs of one label are joined, from left to right.
        figures: name with its unit -> one value per run, None where a run does not have it.
    """
    columns = min(2, len(figures))
    rows = math.ceil(len(figures) / columns)
    width = DOUBLE_COLUMN * (1.0 if columns > 1 else 0.6)
    figure, panels = _panels(width, 1.9 * rows + 0.35, rows, columns, sharex=True, squeeze=False)
    grid = panels.ravel()
    for axes, (name, values) in zip(grid, figures.items()):
        for number, label in enumerate(dict.fromkeys(series)):
            points = sorted(
                (x[run], value) for run, value in enumerate(values) if series[run] == label and value is not None
            )
            axes.plot(
                [a for a, _ in points], [b for _, b in points],
                color=_SERIES_COLORS[number % len(_SERIES_COLORS)], marker=_MARKERS[number % len(_MARKERS)],
                markersize=3.5, linestyle="-" if number < len(_SERIES_COLORS) else "--", label=label,
            )  # fmt: skip
        axes.set_title(name, fontsize=8)
    for axes in grid[len(figures) :]:
        axes.remove()
    for axes in grid[: len(figures)][-columns:]:
        axes.set_xlabel(parameter)
        axes.tick_params(labelbottom=True)  # also where the row below is not full
    handles, names = grid[0].get_legend_handles_labels()
    if any(names):
        figure.legend(handles, names, loc="outside lower center", ncols=4)
    else:
        grid[0].plot([], [], color=NEUTRAL_COLOR)
    return figure


def _limits(values: Values) -> tuple[float, float]:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin
