"""Figures of the notebooks: pure functions from data to a matplotlib figure, none is shown or saved here."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from egptlib.figures._style import (
    DOUBLE_COLUMN,
    DRAFTER_COLOR,
    NEUTRAL_COLOR,
    PALETTE,
    SINGLE_COLUMN,
    TARGET_COLOR,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
Row = Mapping[str, Any]

# What is exact is black; cosine thresholds, the lossy proxy, go from light to dark of one hue.
EXACT_COLOR = "#000000"
_PROXY_COLORS = ("#CDEBE0", "#A6D8C6", "#5DB999", "#009E73", "#00593F")
_SERIES_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Parts and stages: neither of the two models' colours.
_PART_COLORS = ("#BBBBBB", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#6B7280", "#000000", "#A6D8C6")
_MARKERS = ("o", "s", "^", "D", "v")


def _styled(draw: Callable[P, "Figure"]) -> Callable[P, "Figure"]:
    """Draw in the repository's style, whatever the caller's settings are, and leave those alone."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        import matplotlib

        settings: Any = style()
        with matplotlib.rc_context(settings):
            return draw(*args, **kwargs)

    return styled


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def _panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple["Figure", Any]:
    """A new figure and its axes, as `Figure.subplots` gives them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def _lying_bars(width: float, height: float) -> tuple["Figure", Any]:
    """A figure for bars from left to right, with the grid across them, and its axes."""
    figure, axes = _panels(width, height)
    _grid_across(axes)
    return figure, axes


def _grid_across(*panels: Any) -> None:
    for axes in panels:
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")


def _stack_bars(axes: Any, bars: Mapping[str, float], parts: Mapping[str, Any], told: str, **look: Any) -> None:
    """Lying bars of parts one behind the other, from above to below, with the whole behind each.

    Args:
        bars: name of each bar -> where it lies.
        parts: name of a part -> its width in each bar.
        told: how the whole is written, as for `str.format`.
        look: of the bars, e.g. their height.
    """
    places, end = list(bars.values()), np.zeros(len(bars))
    for (part, widths), color in zip(parts.items(), cycle(_PART_COLORS)):
        axes.barh(places, widths, left=end, color=color, label=part, **look)
        end += widths
    for place, width in zip(places, end):
        _tell_beside(axes, told.format(width), width, place)
    axes.set_yticks(places, list(bars))
    axes.invert_yaxis()
    axes.set_xlim(0, end.max() * 1.15)


def _tell_beside(axes: Any, text: str, x: float, y: float, size: float = 8) -> None:
    """Write a figure behind the end of a bar."""
    axes.annotate(text, (x, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=size)


def _quick_figure(width: float, height: float) -> "Figure":
    """A figure without automatic layout, which takes longer than all the rest of a small figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")
    return figure


@_styled
def similarity_figure(
    cosines: Mapping[str, Any], thresholds: Sequence[float] = (0.80, 0.85, 0.90, 0.95), bins: int = 60
) -> "Figure":
    """Histogram of cosines, with the thresholds as lines and the share of positions above each.

    Args:
        cosines: name of a series (a path) -> its cosines at valid positions, flat, tensor or array.
        thresholds: each gets a line with the share above it, for each series in turn.
    """
    figure, axes = _panels(DOUBLE_COLUMN * 0.72, 2.9)
    series = {name: np.asarray(values, dtype=float).ravel() for name, values in cosines.items()}
    lowest = min(float(values.min()) for values in series.values())
    edges = np.linspace(math.floor(lowest * 20) / 20, 1.0, bins + 1)
    for (name, values), color in zip(series.items(), _SERIES_COLORS):
        weights = np.full(values.size, 100 / values.size)
        label = f"{name} (mean {values.mean():.3f}, {values.size:,} positions)"
        axes.hist(values, edges.tolist(), weights=weights, histtype="stepfilled", color=color, alpha=0.25)
        axes.hist(values, edges.tolist(), weights=weights, histtype="step", color=color, linewidth=1.4, label=label)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.55)  # room for the labels of the thresholds
    for threshold in thresholds:
        axes.axvline(threshold, color=NEUTRAL_COLOR, linestyle="--", linewidth=0.9)
        shares = " | ".join(f"{(values > threshold).mean():.0%}" for values in series.values())
        text = f"> {threshold:.2f}: {shares}"
        axes.annotate(text, (threshold, top * 1.53), ha="right", va="top", fontsize=7, rotation=90)
    axes.set(xlim=(edges[0], 1.0), xlabel="cosine of drafter and target hidden state", ylabel="positions (%)")
    figure.legend(loc="outside lower center", ncols=len(series))
    return figure


@_styled
def per_position_figure(
    tables: Mapping[str, Sequence[Row]], matches: Mapping[str, Sequence[float]] | None = None
) -> "Figure":
    """Acceptance by position in the answer, one column per series, over the number of answers that reach it.

    Args:
        tables: name of a series -> rows of `per_position_table` (their `accept_NN` are drawn).
        matches: name of a series -> share of equal tokens by position, from 0 on: the exact figure.
    """
    figure, grid = _panels(
        DOUBLE_COLUMN, 3.2, 2, len(tables), sharex="col", sharey="row", squeeze=False, height_ratios=[3.2, 1]
    )
    for column, (name, rows) in enumerate(tables.items()):
        upper, lower = grid[0, column], grid[1, column]
        positions = [row["position"] + 1 for row in rows]
        keys = [key for key in rows[0] if key.startswith("accept_")]
        for key, color in zip(keys, _PROXY_COLORS[-len(keys) :], strict=True):
            label = f"cosine > {float(key.removeprefix('accept_')) / 100:.2f}"
            upper.plot(positions, [100 * row[key] for row in rows], color=color, label=label)
        if matches is not None and name in matches:
            shares = [100 * matches[name][row["position"]] for row in rows]
            upper.plot(positions, shares, color=EXACT_COLOR, linestyle=(0, (4, 1.5)), label="token equal (exact)")
        upper.set(title=name, ylim=(-2, 102))
        lower.bar(positions, [row["num_samples"] for row in rows], width=1.0, color=NEUTRAL_COLOR, alpha=0.55)
        lower.set(xlabel="position in the answer (token)", xlim=(0.5, max(positions) + 0.5))
    grid[0, 0].set_ylabel("accepted (%)")
    grid[1, 0].set_ylabel("answers")
    figure.align_ylabels(grid[:, 0])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, columnspacing=1.2, handlelength=1.6)
    return figure


@_styled
def consecutive_figure(counts: Mapping[str, Any], exact: Mapping[str, Any] | None = None) -> "Figure":
    """How many tokens from the first on are accepted: share of answers that get at least k.

    Args:
        counts: label -> accepted leading positions per answer by a cosine threshold, lossy.
        exact: label -> the same by equal tokens; drawn black, with a dash pattern per label.
    """
    figure, axes = _panels(DOUBLE_COLUMN * 0.72, 2.7)
    exact = exact or {}
    longest = max(int(np.asarray(values).max()) for values in [*counts.values(), *exact.values()])
    k = np.arange(1, max(longest, 1) + 2)

    def draw(label: str, values: Any, **line: Any) -> None:
        values = np.asarray(values)
        share = [100 * (values >= n).mean() for n in k]
        axes.plot(k, share, label=f"{label} (mean {values.mean():.2f})", **line)

    spacing = max(1, len(k) // 12)
    for (label, values), color, marker in zip(counts.items(), _SERIES_COLORS, _MARKERS):
        draw(label, values, color=color, marker=marker, markersize=3.5, markevery=spacing)
    for (label, values), dashes in zip(exact.items(), ("-", (0, (4, 1.5)), ":")):
        draw(label, values, color=EXACT_COLOR, linestyle=dashes)
    axes.set(
        xlim=(0.8, k[-1]),
        ylim=(0, 102),
        xlabel="k, tokens from the start of the answer",
        ylabel="answers with k accepted (%)",
    )
    _whole_numbers(axes.xaxis)
    axes.legend()
    return figure


@_styled
def proxy_figure(cosine: Any, match: Any, bins: int = 12) -> "Figure":
    """How often the tokens are equal at positions of a given cosine: what the proxy is worth.

    Args:
        cosine: at valid positions, flat.
        match: whether the tokens are equal there.
    """
    cosine, match = np.asarray(cosine, dtype=float).ravel(), np.asarray(match, dtype=bool).ravel()
    edges = np.linspace(math.floor(float(cosine.min()) * 20) / 20, math.ceil(float(cosine.max()) * 20) / 20, bins + 1)
    which = np.clip(np.digitize(cosine, edges) - 1, 0, bins - 1)
    total = np.bincount(which, minlength=bins)
    equal = np.bincount(which, weights=match, minlength=bins)
    used = total > 0
    share = 100 * equal[used] / total[used]
    error = 100 * np.sqrt(share / 100 * (1 - share / 100) / total[used])  # standard error of a share
    figure, (upper, lower) = _panels(SINGLE_COLUMN * 1.35, 3.0, 2, 1, sharex=True, height_ratios=[3, 1])
    centers, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    upper.errorbar(centers[used], share, error, color=EXACT_COLOR, marker="o", markersize=3.5, linewidth=1.2)
    label = f"all positions: {match.mean():.0%}"
    upper.axhline(100 * match.mean(), color=NEUTRAL_COLOR, linestyle="--", linewidth=0.9, label=label)
    upper.set(ylim=(-3, 103), ylabel="tokens equal (%)")
    upper.legend(loc="best")
    lower.bar(centers, 100 * total / total.sum(), width=width * 0.92, color=NEUTRAL_COLOR, alpha=0.55)
    lower.set(xlim=(edges[0], edges[-1]), xlabel="cosine of drafter and target hidden state", ylabel="positions (%)")
    figure.align_ylabels([upper, lower])
    return figure


@_styled
def lengths_figure(lengths: Mapping[str, Any], limit: int | None = None) -> "Figure":
    """Histogram of answer lengths in tokens, one outline per model (or path).

    Args:
        lengths: label -> tokens per answer; labels that start with "drafter" or "target" take those colours.
        limit: where answers were cut, drawn as a line.
    """
    figure, axes = _panels(SINGLE_COLUMN * 1.35, 2.3)
    longest = max(int(np.asarray(values).max()) for values in lengths.values())
    edges = np.arange(0.5, longest + 1.5, max(1, math.ceil(longest / 50)))
    edges = edges if edges[-1] > longest else np.append(edges, edges[-1] + edges[1] - edges[0])
    for (label, values), color in zip(lengths.items(), _SERIES_COLORS):
        color = {"drafter": DRAFTER_COLOR, "target": TARGET_COLOR}.get(label.split()[0].lower(), color)
        values = np.asarray(values)
        name = f"{label} (mean {values.mean():.1f})"
        axes.hist(values, edges.tolist(), histtype="stepfilled", color=color, alpha=0.2)
        axes.hist(values, edges.tolist(), histtype="step", color=color, linewidth=1.4, label=name)
    if limit is not None:
        axes.axvline(limit, color=NEUTRAL_COLOR, linestyle="--", linewidth=0.9, label=f"cut at {limit}")
    axes.set(xlim=(0, max(longest, limit or 0) + 1.5), xlabel="answer length (tokens)", ylabel="answers")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.45)  # the legend stands above the bars
    _whole_numbers(axes.yaxis)
    axes.legend(loc="upper left")
    return figure


@_styled
def memory_figure(rows: Sequence[Row], precisions: Sequence[str] = ("float32", "bfloat16", "int8", "nf4")) -> "Figure":
    """Weights in GiB, one bar per model and precision, split into parts.

    Args:
        rows: of `MemoryPlan.rows()`: `model`, `part`, and GiB under each precision's name.
        precisions: which, from above to below.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    parts = list(dict.fromkeys(row["part"] for row in rows))
    figure, axes = _lying_bars(DOUBLE_COLUMN * 0.85, 0.75 + 0.22 * len(models) * len(precisions))
    bars = [(model, precision) for model in models for precision in precisions]
    places = {f"{m}, {p}": i + 0.6 * (i // len(precisions)) for i, (m, p) in enumerate(bars)}
    sizes = {part: [sum(r[p] for r in rows if (r["model"], r["part"]) == (m, part)) for m, p in bars] for part in parts}
    _stack_bars(axes, places, sizes, "{:.2f}", height=0.78, edgecolor="white", linewidth=0.4)
    axes.set_xlabel("weights (GiB)")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@_styled
def stage_times_figure(times: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Stage times as stacked bars, one per model.

    Args:
        times: name of a model -> stage -> SECONDS, as `Answer.times`; drawn in milliseconds.
    """
    stages = list(dict.fromkeys(stage for stages in times.values() for stage in stages))
    figure, axes = _lying_bars(DOUBLE_COLUMN * 0.85, 1.0 + 0.42 * len(times))
    widths = {stage: [1000 * of_model.get(stage, 0.0) for of_model in times.values()] for stage in stages}
    places = {name: place for place, name in enumerate(times)}
    _stack_bars(axes, places, widths, "{:,.0f} ms", height=0.62, edgecolor="white", linewidth=0.4)
    axes.set_xlabel("time (ms)")
    figure.legend(loc="outside lower center", ncols=len(stages))
    return figure


@_styled
def extraction_figure(rates: Mapping[str, float], megabytes: Mapping[str, float]) -> "Figure":
    """Two rows of bars: samples a second and MB on disk, per method, the first one being the baseline.

    Raises:
        ValueError: a mapping is empty, or its baseline is not positive.
    """
    figure, axes = _panels(DOUBLE_COLUMN, 0.7 + 0.4 * max(len(rates), len(megabytes)), 1, 2)
    for ax, values, title in zip(axes, (rates, megabytes), ("samples a second", "MB on disk")):
        names, numbers = list(values), list(values.values())
        if not numbers or numbers[0] <= 0:
            raise ValueError(f"{title}: expected a baseline above 0, found {numbers[:1]}")
        bars = ax.barh(names, numbers, color=[NEUTRAL_COLOR] + [PALETTE[2]] * (len(numbers) - 1), height=0.6)
        ax.bar_label(bars, [f"{n:.3g} ({n / numbers[0]:.2g}×)" for n in numbers], padding=4)
        ax.invert_yaxis()
        ax.set_title(title)
        ax.grid(False)
        ax.set_xlim(0, 1.45 * max(numbers))
    return figure
