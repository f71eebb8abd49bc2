"""Figures that an explorer draws anew at each move of a slider: from arrays computed once, and quick to draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from egptlib.figures._basic import _PROXY_COLORS, _SERIES_COLORS, EXACT_COLOR, _quick_figure, _styled
from egptlib.figures._style import DOUBLE_COLUMN, NEUTRAL_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class AcceptanceGrid:
    """Acceptance at every threshold and gamma.

    Attributes:
        thresholds: [T], ascending.
        gammas: [G], draft tokens a round.
        proxy: [T, G] tokens accepted a round when a cosine above the threshold accepts; lossy.
        exact: [G] the same when equal tokens accept.
        share: [T] of positions whose cosine is above the threshold.
        equal: [T] of those, the share with equal tokens; NaN where there are none.
    """

    thresholds: np.ndarray
    gammas: np.ndarray
    proxy: np.ndarray
    exact: np.ndarray
    share: np.ndarray
    equal: np.ndarray


def acceptance_grid(
    cosine: Any, match: Any, mask: Any, thresholds: Sequence[float] | None = None, max_gamma: int = 12
) -> AcceptanceGrid:
    """Compute the acceptance of a first draft from each position, for all thresholds and gammas at once.

    Every valid position of every answer counts as the start of a round, and drafts end with the answer.

    Args:
        cosine: [answers, positions] of both hidden states.
        match: [answers, positions] whether the tokens are equal.
        mask: [answers, positions] which positions are in an answer.
        thresholds: default 0.00 to 0.99 in steps of 0.01.
        max_gamma: largest gamma.
    """
    cosine, match, mask = np.asarray(cosine, float), np.asarray(match, bool), np.asarray(mask, bool)
    levels = np.round(np.arange(0, 1, 0.01), 2) if thresholds is None else np.asarray(thresholds, float)
    gammas = np.arange(1, max_gamma + 1)
    above = [(cosine > level) & mask for level in levels]
    total = mask.sum()
    num_above = np.array([one.sum() for one in above])
    equal = np.array([(match & one).sum() for one in above]) / np.where(num_above, num_above, np.nan)
    proxy = np.stack([_accepted_per_round(one, mask, gammas) for one in above])
    return AcceptanceGrid(
        levels, gammas, proxy, _accepted_per_round(match & mask, mask, gammas), num_above / total, equal
    )


def _accepted_per_round(accepted: np.ndarray, mask: np.ndarray, gammas: np.ndarray) -> np.ndarray:
    runs = np.zeros(accepted.shape, int)  # accepted positions in a row, from each position on
    following = np.zeros(len(accepted), int)
    for position in range(accepted.shape[1] - 1, -1, -1):
        following = np.where(accepted[:, position], following + 1, 0)
        runs[:, position] = following
    return np.minimum(runs[mask][:, None], gammas).mean(0)


@_styled
def acceptance_explorer_figure(grid: AcceptanceGrid, threshold: float = 0.9, gamma: int = 5) -> "Figure":
    """Accepted tokens a round over gamma, exact and by the proxy, and what the proxy accepts over the threshold.

    Args:
        grid: from `acceptance_grid`.
        threshold: cosine above which the proxy accepts; the nearest one in the grid is drawn.
        gamma: marked draft length; the nearest one in the grid is.
    """
    from matplotlib.ticker import MaxNLocator

    row = int(np.abs(grid.thresholds - threshold).argmin())
    column = int(np.abs(grid.gammas - gamma).argmin())
    threshold, gamma = float(grid.thresholds[row]), int(grid.gammas[column])
    figure = _quick_figure(DOUBLE_COLUMN, 2.7)
    left, right = figure.subplots(1, 2, gridspec_kw=dict(left=0.07, right=0.985, top=0.88, bottom=0.17, wspace=0.22))
    left.plot(grid.gammas, grid.exact, color=EXACT_COLOR, linestyle=(0, (4, 1.5)), label="tokens equal (exact)")
    left.plot(grid.gammas, grid.proxy[row], color=_PROXY_COLORS[-2], label=f"cosine > {threshold:.2f} (lossy)")
    left.axvline(gamma, color=NEUTRAL_COLOR, linewidth=0.9, linestyle=":")
    for values, color in ((grid.exact, EXACT_COLOR), (grid.proxy[row], _PROXY_COLORS[-2])):
        left.plot(gamma, values[column], "o", color=color, markersize=5)
    top = max(float(grid.exact.max()), float(grid.proxy.max()), 0.1)
    left.set(
        xlim=(0.7, grid.gammas[-1] + 0.3), ylim=(0, 1.1 * top), xlabel="gamma (tokens)", ylabel="accepted (tokens)"
    )
    left.set_title(
        f"gamma {gamma}: {grid.exact[column]:.2f} exact, {grid.proxy[row, column]:.2f} by proxy", fontsize=9, y=1.0
    )
    left.legend(loc="upper left")
    right.plot(grid.thresholds, 100 * grid.share, color=_PROXY_COLORS[-2], label="accepted by the proxy")
    right.plot(grid.thresholds, 100 * grid.equal, color=EXACT_COLOR, label="of these, tokens equal")
    right.axvline(threshold, color=NEUTRAL_COLOR, linewidth=0.9, linestyle=":")
    right.set(xlim=(grid.thresholds[0], grid.thresholds[-1]), ylim=(-3, 108))
    right.set(xlabel="threshold (cosine)", ylabel="positions (%)")
    right.set_title(f"threshold {threshold:.2f}: {grid.share[row]:.1%} accepted", fontsize=9, y=1.0)
    right.legend(loc="center right")
    for axis in (left.xaxis, left.yaxis, right.xaxis, right.yaxis):  # ticks are what takes longest
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=axis is left.xaxis))
    return figure


@_styled
def adapter_comparison_figure(table: "DataFrame", first: str, second: str, name: str = "level") -> "Figure":
    """Two rows of a table of adapters beside each other: a pair of bars for each figure, its value above.

    A bar is as high as its share of the largest value that any row has: the same scale, whichever two are chosen.

    Args:
        table: one row per adapter; its numeric columns are drawn, at most eight.
        first, second: values in the column `name`.
        name: column that names an adapter.
    """
    rows = table.set_index(name)
    numeric = [column for column in rows.columns if rows[column].dtype.kind in "iuf"][:8]
    figure = _quick_figure(DOUBLE_COLUMN, 2.1)
    axes = figure.add_axes((0.01, 0.14, 0.98, 0.66))
    largest = rows[numeric].abs().max().replace(0, 1).fillna(1)
    for side, (one, color) in enumerate(zip((first, second), _SERIES_COLORS)):
        values = rows.loc[one, numeric].astype(float)
        places = np.arange(len(numeric)) + 0.38 * (side - 0.5)
        axes.bar(places, (values / largest).fillna(0.0), width=0.36, color=color, label=one)
        for place, value, high in zip(places, values, (values / largest).fillna(0.0)):
            text = "–" if np.isnan(value) else f"{value:.3g}"
            axes.text(place, max(high, 0.0) + 0.02, text, ha="center", va="bottom", fontsize=6)
    for place, column in enumerate(numeric):
        axes.text(place, 1.22, column.replace("_", " ").replace(" ", "\n", 1), ha="center", va="bottom", fontsize=7)
    axes.axhline(0, color=NEUTRAL_COLOR, linewidth=0.6)
    lowest = float((rows[numeric] / largest).min().min())
    axes.set(xlim=(-0.55, len(numeric) - 0.45), ylim=(min(0.0, lowest), 1.2))
    axes.axis("off")
    figure.legend(loc="lower center", ncols=2)
    return figure
