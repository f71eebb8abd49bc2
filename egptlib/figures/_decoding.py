"""Figures of speculative decoding: methods against the clock, accepted lengths, an answer, where a speedup went."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

from egptlib.figures._basic import _MARKERS, _lying_bars, _panels, _styled, _tell_beside, _whole_numbers
from egptlib.figures._style import DOUBLE_COLUMN, DRAFTER_COLOR, NEUTRAL_COLOR, PALETTE, SINGLE_COLUMN, TARGET_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from egptlib.metrics import Waterfall

_LOSSY_COLOR = "#CC79A7"
_PANELS_A_ROW = 4
_TITLE_CHARACTERS = 24  # what stands above one of four panels
Tokens = Sequence[str]


@_styled
def methods_figure(ratios: Mapping[str, tuple[float, float, float]], lossy: Sequence[str] = ()) -> "Figure":
    """Speed of each method against the baseline, with its interval; right of the line is faster.

    Args:
        ratios: label -> (ratio, low, high).
        lossy: the labels whose answers are not the target's own; hollow, in a colour of their own.
    """
    figure, axes = _lying_bars(DOUBLE_COLUMN * 0.85, 0.8 + 0.27 * len(ratios))
    axes.axvline(1, color=NEUTRAL_COLOR, linewidth=1)
    drawn = set[str]()
    for place, (label, (ratio, low, high)) in enumerate(ratios.items()):
        kind = "lossy" if label in lossy else "lossless"
        color = _LOSSY_COLOR if label in lossy else TARGET_COLOR
        axes.plot([low, high], [place, place], color=color, linewidth=1.2)
        axes.plot(
            ratio, place, color=color, marker="o", markersize=5, linestyle="none",
            markerfacecolor="white" if label in lossy else color, label=None if kind in drawn else kind,
        )  # fmt: skip
        drawn.add(kind)
        _tell_beside(axes, f"{ratio:.2f}x", high, place, 7.5)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.set_ylim(len(ratios) - 0.5, -0.5)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.09 * (right - left))
    axes.set_xlabel("times as fast as the baseline; line: 95 % interval over prompts")
    if len(drawn) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


@_styled
def accepted_lengths_figure(histograms: Mapping[str, Mapping[int, int]]) -> "Figure":
    """Share of verifications by draft tokens accepted, one panel a method; the dashed line is the mean.

    Args:
        histograms: label -> accepted count -> verifications.

    Raises:
        ValueError: a method without a verification.
    """
    if empty := [label for label, counts in histograms.items() if not sum(counts.values())]:
        raise ValueError(f"accepted lengths: expected at least one verification, found none for {empty[0]!r}")
    rows = -(-len(histograms) // _PANELS_A_ROW)
    columns = -(-len(histograms) // rows)
    figure, grid = _panels(DOUBLE_COLUMN, 0.5 + 1.6 * rows, rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(histograms) :]:
        axes.set_visible(False)
    for axes, (label, counts) in zip(grid.flat, histograms.items()):
        total = sum(counts.values())
        mean = sum(k * count for k, count in counts.items()) / total
        axes.bar(list(counts), [100 * count / total for count in counts.values()], 0.8, color=TARGET_COLOR)
        axes.axvline(mean, color=NEUTRAL_COLOR, linestyle="--", linewidth=0.9)
        axes.set_title(f"{textwrap.fill(label, _TITLE_CHARACTERS)}\nmean {mean:.2f} of {total}", fontsize=8)
        _whole_numbers(axes.xaxis)
    figure.supylabel("verifications (%)", fontsize=9)
    figure.supxlabel("draft tokens accepted, bonus not counted", fontsize=9)
    return figure


@_styled
def positions_figure(shares: Mapping[str, Sequence[float]]) -> "Figure":
    """Share of verifications that kept the draft up to each of its positions.

    Args:
        shares: label -> share of the first, second, ... draft token; see `acceptance_by_position`.
    """
    figure, axes = _panels(DOUBLE_COLUMN, 2.5)
    for (label, values), color, marker in zip(shares.items(), cycle(PALETTE), cycle(_MARKERS)):
        places = range(1, len(values) + 1)
        percent = [100 * value for value in values]
        axes.plot(places, percent, color=color, marker=marker, markersize=4, label=label)
    axes.set(ylim=(0, 102), xlabel="position in the draft", ylabel="kept up to here (%)")
    _whole_numbers(axes.xaxis)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))  # a line may go anywhere in the axes
    return figure


@_styled
def tokens_figure(first: Tokens, rounds: Sequence[tuple[Tokens, Tokens, Tokens]], title: str = "") -> "Figure":
    """One answer token by token, a line per target pass.

    The answer reads on in the filled tokens, accepted and the target's own; what was rejected stands struck out behind.

    Args:
        first: what the prefill gave, as words.
        rounds: accepted, rejected and own tokens of each pass, as words; see `round_tokens`.
    """
    lines = [[(word, "own") for word in first]] if first else []
    for accepted, rejected, own in rounds:
        kinds = (("accepted", accepted), ("own", own), ("rejected", rejected))
        lines.append([(word, kind) for kind, words in kinds for word in words])
    unit = 0.075  # inches a character takes
    longest = max((sum(len(word) + 2 for word, _ in line) for line in lines), default=1)
    figure, axes = _panels(DOUBLE_COLUMN, 0.75 + 0.27 * len(lines))
    axes.set_xlim(0, max(longest, (DOUBLE_COLUMN - 0.6) / unit))
    axes.set_ylim(len(lines) - 0.4, -0.6)
    faces = {"accepted": DRAFTER_COLOR, "own": TARGET_COLOR, "rejected": "white"}
    for y, line in enumerate(lines):
        x = 0.0
        for word, kind in line:
            width = len(word) + 1.4
            color = NEUTRAL_COLOR if kind == "rejected" else "white"
            edge = NEUTRAL_COLOR if kind == "rejected" else faces[kind]
            axes.barh(y, width, left=x, height=0.74, facecolor=faces[kind], edgecolor=edge, linewidth=0.6)
            axes.text(x + width / 2, y, word, ha="center", va="center", fontsize=6.5, color=color, parse_math=False)
            if kind == "rejected":
                axes.plot([x, x + width], [y, y], color=NEUTRAL_COLOR, linewidth=0.7)
            x += width + 0.5
    axes.set_yticks(range(len(lines)), ["prefill"] * bool(first) + [str(i + 1) for i in range(len(rounds))])
    axes.set_ylabel("target pass")
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(title, fontsize=8.5, parse_math=False)
    from matplotlib.patches import Patch

    names = {
        "accepted": "draft, accepted",
        "rejected": "draft, rejected",
        "own": "the target's own (correction or bonus)",
    }
    handles = [Patch(facecolor=faces[kind], edgecolor=NEUTRAL_COLOR, label=name) for kind, name in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


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
    figure, axes = _panels(SINGLE_COLUMN, 0.75 + 0.3 * (len(waterfall.factors) + 2))
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
