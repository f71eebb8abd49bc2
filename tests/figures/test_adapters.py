"""Figures of adapters draw every level that they are given."""

from egptlib.figures._tokens import acceptance_figure, training_figure


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
