"""Figures of the extraction, its rate and its bytes, and of prefill hiding, what overlap saves and what was free."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from egptlib.figures._basic import _lying_bars, _panels, _styled, _tell_beside, _whole_numbers
from egptlib.figures._style import DOUBLE_COLUMN, DRAFTER_COLOR, NEUTRAL_COLOR, TARGET_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@_styled
def hiding_figure(seconds: Mapping[str, Sequence[float]], computed: Sequence[str] = ()) -> "Figure":
    """Mean time of an answer by each way of running it; what is computed and not measured is hatched.

    Args:
        seconds: label -> SECONDS per answer; drawn in milliseconds.
        computed: the labels that were not measured.
    """
    figure, axes = _lying_bars(DOUBLE_COLUMN * 0.85, 0.9 + 0.38 * len(seconds))
    means = [1000 * float(np.mean(values)) for values in seconds.values()]
    for place, (label, mean) in enumerate(zip(seconds, means)):
        color = NEUTRAL_COLOR if place == 0 else TARGET_COLOR
        if label in computed:
            axes.barh(place, mean, 0.62, facecolor="white", edgecolor=color, hatch="////")
        else:
            axes.barh(place, mean, 0.62, color=color)
        text = f"{mean:.0f} ms" if place == 0 else f"{mean:.0f} ms, {means[0] / mean:.2f}x"
        _tell_beside(axes, text, mean, place)
    axes.set_yticks(range(len(seconds)), list(seconds))
    axes.invert_yaxis()
    axes.set(xlabel="time of an answer (ms)", xlim=(0, max(means) * 1.22))
    return figure


@_styled
def free_tokens_figure(drafted: Sequence[int], accepted: Sequence[int]) -> "Figure":
    """Free draft tokens of each answer, and how many of them the target kept; answers in order of what was kept."""
    figure, axes = _panels(DOUBLE_COLUMN * 0.85, 2.5)
    order = np.argsort(-np.asarray(accepted), kind="stable")
    places = np.arange(1, len(order) + 1)
    axes.bar(places, np.asarray(drafted)[order], width=0.8, color=DRAFTER_COLOR, alpha=0.35, label="drafted for free")
    axes.bar(places, np.asarray(accepted)[order], width=0.8, color=TARGET_COLOR, label="kept by the target")
    axes.set(xlabel="answer, by tokens kept", ylabel="tokens")
    _whole_numbers(axes.xaxis)
    figure.legend(loc="outside lower center", ncols=2)
    return figure
