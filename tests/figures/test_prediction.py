"""The map's lines lie where the speedup is, and its points where they are said to be."""

from typing import Any

import numpy as np

from egptlib.figures._prediction import speedup_map_figure
from egptlib.metrics import MapPoint, SpeedupMap


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
