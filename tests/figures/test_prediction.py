"""The map's lines lie where the speedup is, its points where they are said to be; costs are drawn as measured."""

from typing import Any

import numpy as np

from egptlib.figures import step_parts_figure, verify_cost_figure
from egptlib.figures._prediction import speedup_map_figure
from egptlib.metrics import Costs, MapPoint, SpeedupMap


def test_lines_of_equal_speedup_and_points() -> None:
    alphas, verify = np.linspace(0, 1, 51), np.linspace(1, 5, 41)
    speedup = 1 + alphas[None, :] + 0 * verify[:, None]  # 1.5 where alpha is 0.5
    found = SpeedupMap(alphas, verify, speedup, np.full(speedup.shape, 7, dtype=int), 0)
    points = [
        ("today", MapPoint(0.4, 4.0, 1.0, 1.4, "computed overlap")),
        ("then", MapPoint(0.4, 2.0, 1.0, 1.4, "estimated")),
    ]
    figure = speedup_map_figure({"a map": (found, points)})
    axes: Any = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert "today\n1.40x [computed overlap]" in texts and "then\n1.40x [estimated]" in texts
    assert "1.5x" in texts and texts.count("7") > 2
    lines = [path for collection in axes.collections for path in collection.get_paths() if len(path.vertices)]
    assert any(np.allclose(path.vertices[:, 0], 0.5) for path in lines)


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
