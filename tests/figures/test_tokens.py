"""Figures of adapters and of token alignment show all that they are given."""

from typing import Any

import pytest
import torch
from matplotlib.colors import to_rgba

from egptlib.figures._style import DRAFTER_COLOR, TARGET_COLOR
from egptlib.figures._tokens import (
    acceptance_figure,
    facts_figure,
    rejection_profile_figure,
    token_training_figure,
    training_figure,
    word_kinds_figure,
)
from egptlib.metrics import Rejections


def counted(labels: list[str], matches: list[bool], order: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return Rejections.count([labels], [torch.tensor(matches)], order=order).rows()


def test_kinds_stand_together_by_group_with_their_rates() -> None:
    rows = counted(["colour", "shape", "motion", "shape"], [False, True, True, False], ("motion", "shape", "colour"))
    groups = {"carried": ("motion", "shape"), "lost": ("colour", "brightness")}
    left, right = word_kinds_figure(rows, groups).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["motion (1)", "shape (2)", "colour (1)"]
    assert [bar.get_width() for bar in left.patches] == [0.0, 0.5, 1.0]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in right.patches] == [0.0, 0.5, 0.5]  # type: ignore[attr-defined]
    colors = [bar.get_facecolor() for bar in left.patches]
    assert colors[0] == colors[1] != colors[2]


def test_positions_count_from_one_and_bins_keep_their_order() -> None:
    by_position = counted(["0", "1", "1"], [True, False, True], ("0", "1"))
    by_entropy = counted(["below 1", "1 and more"], [True, False], ("below 1", "1 and more"))
    left, right = rejection_profile_figure(by_position, by_entropy).axes
    assert left.lines[0].get_xdata().tolist() == [1, 2]  # type: ignore[union-attr]
    assert left.lines[0].get_ydata().tolist() == [0.0, 0.5]  # type: ignore[union-attr]
    assert [label.get_text() for label in right.get_xticklabels()] == ["below 1", "1 and more"]


@pytest.mark.parametrize("folds", [1, 2])
def test_each_fold_has_its_majority_line(folds: int) -> None:
    row = {"epoch": 1, "loss": 2.0, "validation_loss": 3.0, "top1": 0.3, "top5": 0.6}
    _, top1, _ = token_training_figure([[row]] * folds, [{"top1": 0.25, "top5": 0.5}] * folds).axes
    labels = [str(line.get_label()) for line in top1.lines]
    assert labels == (["adapter", "majority"] if folds == 1 else [f"{n}, fold {i}" for i in (1, 2) for n in NAMES])


NAMES = ("adapter", "majority")


def test_facts_without_a_false_one_have_no_mark() -> None:
    told: dict[str, Any] = {"facts": 9, "rate": 0.5, "low": 0.4, "high": 0.6, "rate_true": 0.2, "drafter_true": 0.7}
    rows = [{"slot": "lanes", **told, "rate_false": None}, {"slot": "color", **told, "rate_false": 0.9}]
    left, right = facts_figure(rows).axes
    marks = {str(line.get_label()): line for line in left.lines if line.get_marker() in ("o", "s")}
    assert len(marks["where the target is right"].get_xdata()) == 2  # type: ignore[arg-type]
    assert len(marks["where it is wrong"].get_xdata()) == 1  # type: ignore[arg-type]
    assert to_rgba(str(marks["where the target is right"].get_color())) == to_rgba(TARGET_COLOR)
    assert [bar.get_width() for bar in right.patches] == [0.7, 0.7]  # type: ignore[attr-defined]
    assert right.patches[0].get_facecolor() == to_rgba(DRAFTER_COLOR)


def test_one_line_a_level() -> None:
    rows = [
        {"epoch": float(e), "loss": 2.0 / e, "cos_sim_mean": 0.1 * e, "mean_acceptance_length": 1.0 + e}
        for e in (1, 2, 3)
    ]
    figure = training_figure({"L1": rows, "B1": rows[:2]})
    assert [len(axis.lines) for axis in figure.axes] == [2, 2, 2]
    assert figure.axes[2].lines[0].get_ydata().tolist() == [2.0, 3.0, 4.0]  # type: ignore[union-attr]


def test_baselines_are_grey_and_told_apart() -> None:
    figure = acceptance_figure(
        {"L1": {1: 1.9, 2: 2.5}, "identity": {1: 1.0, 2: 1.0}, "a": {1: 1, 2: 1}}, ["identity", "a"]
    )
    level, *grey = figure.axes[0].lines
    assert len({line.get_color() for line in grey}) == 1 and level.get_color() != grey[0].get_color()
    assert grey[0].get_linestyle() != grey[1].get_linestyle()
