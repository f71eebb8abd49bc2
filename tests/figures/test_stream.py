"""The sensor's clock as a figure: frames, events and both models where they were, on both sides of the last frame."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from egptlib.figures import stream_figure


def event(lane: str, stage: str, start: float, end: float) -> SimpleNamespace:
    return SimpleNamespace(lane=lane, stage=stage, start=start, end=end, info={})


FRAMES = [10.0, 10.5, 11.0]
EVENTS: list[Any] = [
    event("target", "prefill", 10.0, 10.1),
    event("drafter", "draft", 10.6, 10.8),
    event("target", "preview", 10.55, 10.9),
    event("target", "prefill", 11.0, 11.02),
    event("target", "verify", 11.02, 11.05),
]


def boxes(axes: Any) -> set[tuple[float, float, float]]:
    """Left end, width and middle of every bar."""
    extents = [path.get_extents() for c in axes.collections for path in c.get_paths() if len(path.vertices) == 5]
    return {(round(b.x0), round(b.width), round((b.y0 + b.y1) / 2, 3)) for b in extents}


def test_everything_stands_at_its_time_before_and_after_the_last_frame() -> None:
    times = np.concatenate([np.linspace(10.0, 10.2, 300), [10.7]])
    figure: Any = stream_figure(EVENTS, FRAMES, times, {"stream": (0.02, 0.05), "generate": (0.1, 0.3)})
    whole, after = figure.axes
    work = {(-1000, 100, 2.0), (-400, 200, 1.0), (-450, 350, 2.0), (0, 20, 2.0), (20, 30, 2.0)}
    assert work <= boxes(whole) and work | {(0, 300, 3.0)} <= boxes(after)
    assert (0, 300, 3.0) not in boxes(whole)
    assert whole.get_xlim() == (-1000, 0) and after.get_xlim()[1] > 300
    assert [label.get_text() for label in whole.get_yticklabels()] == ["sensor", "drafter", "target", "generate"]
    assert {"50 ms", "300 ms"} <= {text.get_text() for text in after.texts}
    (stairs,) = [patch for patch in whole.patches if hasattr(patch, "get_data")]
    values = stairs.get_data().values
    assert np.argmin(values) < 20 and np.isclose(values.min(), -0.3) and np.isclose(values[40], 0.3)
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 6


def test_a_scene_without_events_or_frames() -> None:
    assert len(stream_figure(EVENTS, FRAMES, [], {"stream": (0.02, 0.05)}).axes) == 2
    with pytest.raises(ValueError, match="expected frames and answers"):
        stream_figure(EVENTS, [], [], {"stream": (0.02, 0.05)})
