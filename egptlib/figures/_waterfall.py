"""Figure of where a speedup went: a bar for what it begins with, one a factor, one for what was measured."""

from typing import TYPE_CHECKING, Any, NamedTuple

from egptlib.figures._basic import _new_figure, _styled, _tell_beside
from egptlib.figures._style import DRAFTER_COLOR, NEUTRAL_COLOR, SINGLE_COLUMN, TARGET_COLOR

if TYPE_CHECKING:  # metrics loads torch, which no figure needs
    from matplotlib.figure import Figure

    from egptlib.metrics import Waterfall


class _Bar(NamedTuple):
    name: str
    left: float
    right: float
    color: str
    told: str
    hatch: str | None = None


@_styled
def waterfall_figure(waterfall: "Waterfall") -> "Figure":
    """From the first speedup to the measured one, factor by factor, on a logarithmic axis; fits a paper's column.

    A hatched bar is estimated. Factors multiply, so equal lengths are equal factors.
    """
    figure = _new_figure(SINGLE_COLUMN, 0.75 + 0.3 * (len(waterfall.factors) + 2))
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.grid(visible=False, axis="y")
    levels = [waterfall.start]
    for factor in waterfall.factors:
        levels.append(levels[-1] * factor.value)
    base = 0.8 * min(1.0, *levels)
    rows = [_Bar(waterfall.start_name, base, levels[0], NEUTRAL_COLOR, f"{levels[0]:.2f}x")]
    for factor, before, after in zip(waterfall.factors, levels, levels[1:]):
        color = TARGET_COLOR if factor.value >= 1 else DRAFTER_COLOR
        hatch = "////" if factor.kind == "estimated" else None
        ends = min(before, after), max(before, after)
        rows.append(_Bar(factor.name, *ends, color, f"×{factor.value:.2f}", hatch))
    rows.append(_Bar("measured", base, waterfall.measured, NEUTRAL_COLOR, f"{waterfall.measured:.2f}x"))
    for place, bar in enumerate(rows):
        look: dict[str, Any] = {"color": bar.color, "hatch": bar.hatch, "edgecolor": "white", "linewidth": 0}
        axes.barh(place, bar.right - bar.left, 0.62, left=bar.left, **look)
        _tell_beside(axes, bar.told, bar.right, place, 7)
    axes.axvline(1, color="black", linewidth=0.7)
    axes.set_yticks(range(len(rows)), [bar.name for bar in rows])
    axes.invert_yaxis()
    axes.set_xlim(base, 1.5 * max(levels))
    ticks = [
        tick for tick in (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 9, 12, 16) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("speedup over plain decoding")
    axes.set_title(waterfall.method, loc="left", fontsize="medium")
    return figure
