"""Figures that an explorer draws anew at each move of a slider: from arrays computed once, and quick to draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from egptlib.reporting._figures import _PROXY_COLORS, _SERIES_COLORS, EXACT_COLOR, _quick_figure, _styled
from egptlib.reporting._style import DOUBLE_COLUMN, NEUTRAL_COLOR

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
    left.legend(loc="lower right", bbox_to_anchor=(1, 0.04))
    right.plot(grid.thresholds, 100 * grid.share, color=_PROXY_COLORS[-2], label="accepted by the proxy")
    right.plot(grid.thresholds, 100 * grid.equal, color=EXACT_COLOR, label="of these, tokens equal")
    right.axvline(threshold, color=NEUTRAL_COLOR, linewidth=0.9, linestyle=":")
    right.set(xlim=(grid.thresholds[0], grid.thresholds[-1]), ylim=(-3, 108))
    right.set(xlabel="threshold (cosine)", ylabel="positions (%)")
    right.set_title(f"threshold {threshold:.2f}: {grid.share[row]:.1%} accepted", fontsize=9, y=1.0)
    right.legend(loc="center right")
    return figure


@_styled
def adapter_comparison_figure(table: "DataFrame", first: str, second: str, name: str = "level") -> "Figure":
    """Two rows of a table of adapters beside each other, one panel per figure.

    Args:
        table: one row per adapter; its numeric columns are drawn, at most eight.
        first, second: values in the column `name`.
        name: column that names an adapter.
    """
    rows = table.set_index(name)
    numeric = [column for column in rows.columns if rows[column].dtype.kind in "iuf"][:8]
    figure = _quick_figure(DOUBLE_COLUMN, 1.9)
    grid = figure.subplots(
        1, len(numeric), squeeze=False, gridspec_kw=dict(left=0.06, right=0.985, top=0.78, bottom=0.15, wspace=0.55)
    )[0]
    for axes, column in zip(grid, numeric):
        values = [float(rows.loc[one, column]) for one in (first, second)]
        axes.bar([0, 1], values, width=0.7, color=_SERIES_COLORS[:2])
        axes.set_xticks([0, 1], [first, second])
        axes.set_title(column.replace("_", "\n").replace(" ", "\n", 1), fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
        low, high = min(0.0, float(rows[column].min())), max(0.0, float(rows[column].max()))
        axes.set_ylim(1.05 * low, 1.05 * high or 1.0)  # the same scale, whichever two are chosen
    return figure
