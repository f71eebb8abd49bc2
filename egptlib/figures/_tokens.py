"""Figures of adapters: how each level and the token adapter trained, what is accepted and which tokens are rejected."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import PercentFormatter

from egptlib.figures._basic import _grid_across, _panels, _styled, _whole_numbers
from egptlib.figures._style import DOUBLE_COLUMN, DRAFTER_COLOR, NEUTRAL_COLOR, PALETTE, TARGET_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
_GROUP_COLORS = ("#009E73", "#CC79A7", NEUTRAL_COLOR)


@_styled
def token_training_figure(
    histories: Sequence[Sequence[Mapping[str, float]]], majority: Sequence[Mapping[str, float]]
) -> "Figure":
    """Loss, top-1 and top-5 of a token adapter by epoch, one line a fold, beside the majority predictor.

    Args:
        histories: per fold the rows of `Fit.history`.
        majority: per fold what the majority predictor scores on the samples of the validation curve: top1, top5.
    """
    figure, axes = _panels(DOUBLE_COLUMN, 2.7, 1, 3)
    for i, (rows, common) in enumerate(zip(histories, majority, strict=True)):
        epochs, color = [row["epoch"] for row in rows], PALETTE[i % len(PALETTE)]
        fold = f", fold {i + 1}" if len(histories) > 1 else ""
        axes[0].plot(epochs, [row["loss"] for row in rows], color=color, linestyle="--")
        axes[0].plot(
            epochs, [row["validation_loss"] for row in rows], color=color, marker=".", label=f"held back{fold}"
        )
        for axis, name in zip(axes[1:], ("top1", "top5")):
            axis.plot(epochs, [row[name] for row in rows], color=color, marker=".", label=f"adapter{fold}")
            axis.axhline(common[name], color=color, linestyle=":", label=f"majority{fold}")
    axes[0].set_title("loss, nats a token")
    axes[0].plot([], [], color=NEUTRAL_COLOR, linestyle="--", label="in training")
    axes[1].set_title("top-1, held back")
    axes[2].set_title("top-5, held back")
    for axis in axes:
        axis.set_xlabel("epoch")
        _whole_numbers(axis.xaxis)
    for axis in axes[1:]:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[0].legend()
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


@_styled
def word_kinds_figure(rows: Sequence[Row], groups: Mapping[str, Sequence[str]]) -> "Figure":
    """How often tokens of each kind of word are rejected, and how many of the rejections that makes.

    Args:
        rows: of `Rejections.rows`, by kind; lines are 95 % intervals.
        groups: name of a group of kinds -> its kinds; one colour each, kept together.
    """
    figure, (left, right) = _panels(DOUBLE_COLUMN, 3.1, 1, 2, sharey=True)
    by_kind = {row["label"]: row for row in rows}
    place = 0.0
    names: dict[float, str] = {}
    for color, (group, kinds) in zip(_GROUP_COLORS, groups.items()):
        for number, kind in enumerate(kind for kind in kinds if kind in by_kind):
            row, names[place] = by_kind[kind], f"{kind} ({by_kind[kind]['tokens']:,})"
            left.barh(place, row["rate"], color=color, label=group if number == 0 else None)
            left.plot([row["low"], row["high"]], [place, place], color="black", linewidth=1)
            right.barh(place, row["share"], color=color)
            place -= 1
        place -= 0.4  # a gap between groups
    left.set_yticks(list(names), list(names.values()))
    left.set_title("rejected, of its tokens")
    right.set_title("of all rejections")
    for axis in (left, right):
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _grid_across(left, right)
    figure.legend(loc="outside lower center", ncols=len(groups))
    return figure


@_styled
def rejection_profile_figure(by_position: Sequence[Row], by_entropy: Sequence[Row]) -> "Figure":
    """Share of tokens rejected by place in the answer and by the target's entropy, with 95 % intervals.

    Args:
        by_position: rows of `Rejections.rows` whose labels are positions from 0, as text.
        by_entropy: rows whose labels are bins of entropy, in rising order.
    """
    figure, (left, right) = _panels(DOUBLE_COLUMN, 2.9, 1, 2, width_ratios=(1.3, 1))
    positions = [int(row["label"]) + 1 for row in by_position]
    left.plot(positions, [row["rate"] for row in by_position], color=DRAFTER_COLOR)
    lows, highs = ([row[name] for row in by_position] for name in ("low", "high"))
    left.fill_between(positions, lows, highs, color=DRAFTER_COLOR, alpha=0.2, linewidth=0)
    left.set_xlabel("position in the answer")
    left.set_ylabel("rejected")
    for place, row in enumerate(by_entropy):
        right.bar(place, row["rate"], color=DRAFTER_COLOR)
        right.plot([place, place], [row["low"], row["high"]], color="black", linewidth=1)
        right.annotate(
            f"{row['tokens']:,}", (place, row["high"]), (0, 2), textcoords="offset points", ha="center", size=7
        )
    right.set_xticks(range(len(by_entropy)), [row["label"] for row in by_entropy], rotation=30, ha="right")
    right.set_xlabel("entropy of the target, nats")
    right.set_title("above each bar: its tokens", fontsize=8)
    for axis in (left, right):
        axis.set_ylim(0, None)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


@_styled
def facts_figure(rows: Sequence[Row]) -> "Figure":
    """How often each fact is rejected where the target is right and where it is wrong, and who is right then.

    Args:
        rows: from `slot_rejections`.
    """
    figure, (left, right) = _panels(DOUBLE_COLUMN, 3.2, 1, 2, sharey=True)
    places = [-i for i in range(len(rows))]
    for place, row in zip(places, rows):
        left.barh(place, row["rate"], color=NEUTRAL_COLOR, height=0.5, alpha=0.6)
        left.plot([row["low"], row["high"]], [place, place], color="black", linewidth=1)
    for name, color, marker, label in (
        ("rate_true", TARGET_COLOR, "o", "where the target is right"),
        ("rate_false", DRAFTER_COLOR, "s", "where it is wrong"),
    ):
        known = [(row[name], place) for row, place in zip(rows, places) if row[name] is not None]
        left.plot(*zip(*known), color=color, marker=marker, markersize=4, linestyle="", label=label)
    for place, row in zip(places, rows):
        if row["drafter_true"] is not None:
            right.barh(place, row["drafter_true"], color=DRAFTER_COLOR, height=0.5)
    left.set_yticks(places, [f"{row['slot']} ({row['facts']:,})" for row in rows])
    left.set_title("facts rejected")
    right.set_title("of these, the drafter has the truth")
    for axis in (left, right):
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _grid_across(left, right)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@_styled
def training_figure(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> "Figure":
    """Loss, cosine and mean acceptance length on validation by epoch, one line a level.

    Args:
        histories: level -> rows of `Fit.history`.
    """
    figure, axes = _panels(DOUBLE_COLUMN, 2.5, 1, 3)
    labels = {"loss": "training loss", "cos_sim_mean": "cosine", "mean_acceptance_length": "tokens per target pass"}
    for axis, (name, label) in zip(axes, labels.items()):
        for i, (level, rows) in enumerate(histories.items()):
            epochs = [row["epoch"] for row in rows]
            axis.plot(epochs, [row[name] for row in rows], label=level, **_line(i))
        axis.set_title(label)
        axis.set_xlabel("epoch")
        _whole_numbers(axis.xaxis)
    axes[0].set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


@_styled
def acceptance_figure(lengths: Mapping[str, Mapping[int, float]], baselines: Sequence[str] = ()) -> "Figure":
    """Mean acceptance length by gamma.

    Args:
        lengths: level or baseline -> gamma -> tokens per target pass.
        baselines: names drawn in grey, told apart by their dashes.
    """
    figure, axis = _panels(DOUBLE_COLUMN, 3.4)
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
