"""Figures of adapters: how each level trained, and what a decoder accepts of it at each gamma."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from egptlib.figures._style import DOUBLE_COLUMN, NEUTRAL_COLOR, PALETTE


def training_figure(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Loss, cosine and mean acceptance length on validation by epoch, one line a level.

    Args:
        histories: level -> rows of `Fit.history`.
    """
    figure = Figure(figsize=(DOUBLE_COLUMN, 2.5), layout="constrained")
    names = (("loss", "training loss"), ("cos_sim_mean", "cosine"))
    wanted = (*names, ("mean_acceptance_length", "tokens per target pass"))
    axes = figure.subplots(1, len(wanted))
    for axis, (name, label) in zip(axes, wanted):
        for i, (level, rows) in enumerate(histories.items()):
            epochs = [row["epoch"] for row in rows]
            axis.plot(epochs, [row[name] for row in rows], label=level, **_line(i))
        axis.set_title(label)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def acceptance_figure(lengths: Mapping[str, Mapping[int, float]], baselines: Sequence[str] = ()) -> Figure:
    """Mean acceptance length by gamma.

    Args:
        lengths: level or baseline -> gamma -> tokens per target pass.
        baselines: names drawn in grey, told apart by their dashes.
    """
    figure = Figure(figsize=(DOUBLE_COLUMN, 3.4), layout="constrained")
    axis = figure.subplots()
    dashes = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
    levels = [name for name in lengths if name not in baselines]
    for name, by_gamma in lengths.items():
        gammas = list(by_gamma)
        if name in baselines:
            line = dashes[list(baselines).index(name) % len(dashes)]
            axis.plot(gammas, list(by_gamma.values()), color=NEUTRAL_COLOR, linestyle=line, label=name)
        else:
            axis.plot(gammas, list(by_gamma.values()), label=name, **_line(levels.index(name)))
    axis.set_xlabel("gamma, draft tokens per target pass")
    axis.set_ylabel("tokens per target pass")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _line(i: int) -> dict[str, Any]:
    """How the i-th level is drawn: by color, and by shape where the colors begin again."""
    again, color = divmod(i, len(PALETTE))
    return {"color": PALETTE[color], "marker": ".sv"[again % 3], "markersize": 6 if again == 0 else 4}
