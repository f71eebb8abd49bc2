"""Cost figures draw what was measured: every gamma, and parts that add up to the step."""

import numpy as np

from egptlib.figures import step_parts_figure, verify_cost_figure
from egptlib.metrics import Costs


def test_curves_are_the_measured_ones() -> None:
    costs = Costs(target_step=0.010, drafter_step=0.002, verify={0: 0.010, 2: 0.012, 5: 0.015})
    ratio, clock = verify_cost_figure({"float32": costs, "nf4": costs}).axes
    line = ratio.lines[0]
    assert line.get_label() == "float32: T_p(1) 10.0 ms, c 0.20"
    np.testing.assert_allclose(line.get_xydata(), [(0, 1.0), (2, 1.2), (5, 1.5)])  # type: ignore[arg-type]
    np.testing.assert_allclose(clock.lines[1].get_xydata(), [(0, 10), (2, 12), (5, 15)])  # type: ignore[arg-type]


def test_parts_stand_one_behind_the_other() -> None:
    axes = step_parts_figure({"target": {"a": 0.001, "b": 0.003}, "drafter": {"a": 0.001, "b": 0.0}}).axes[0]
    bars = sorted((bar.get_y(), bar.get_x(), bar.get_width()) for bar in axes.patches)  # type: ignore[attr-defined]
    assert [bar[1:] for bar in bars] == [(0, 1.0), (1.0, 3.0), (0, 1.0), (1.0, 0.0)]
    assert [text.get_text() for text in axes.texts] == ["4.00 ms", "1.00 ms"]
