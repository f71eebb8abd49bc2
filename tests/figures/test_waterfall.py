"""The waterfall's bars: each begins where the one before it ended, the last is what was measured."""

import pytest
from matplotlib.figure import Figure

from egptlib.figures import SINGLE_COLUMN, waterfall_figure
from egptlib.metrics import RunTotals, explain


def bars(figure: Figure) -> list[tuple[float, float]]:
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in figure.axes[0].patches]  # type: ignore[attr-defined]


def test_bars_go_from_the_ideal_to_the_measured_speedup() -> None:
    run = RunTotals(1.0, 0.8, "gamma 4", tokens_per_pass=3.0, gamma=4.0)
    waterfall = explain(run, RunTotals(1.0, 1.0, tokens_per_pass=1.0), draft_cost=0.1)
    figure = waterfall_figure(waterfall)
    first, acceptance, draft, verify, measured = bars(figure)
    assert first[1] == acceptance[1] == 5
    assert acceptance[0] == pytest.approx(draft[1])
    assert draft[0] == pytest.approx(verify[1])
    assert verify[0] == pytest.approx(measured[1]) == pytest.approx(1.25)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        *("every draft accepted", "acceptance", "draft cost", "verify cost", "measured")
    ]
    hatched = [bar.get_hatch() for bar in figure.axes[0].patches]
    assert hatched == [None, None, "////", "////", None]  # what was not measured
    assert figure.get_figwidth() == SINGLE_COLUMN
