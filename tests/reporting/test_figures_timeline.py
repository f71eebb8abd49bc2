"""The timeline shows every event where it happened."""

from types import SimpleNamespace
from typing import Any

import pytest

from egptlib.reporting._figures_timeline import stage_seconds, timeline_figure


def event(lane: str, stage: str, start: float, end: float, **info: int) -> SimpleNamespace:
    return SimpleNamespace(lane=lane, stage=stage, start=start, end=end, info=info)


PLAIN = [event("target", "prefill", 5.0, 5.2), event("target", "step", 5.2, 5.3), event("target", "step", 5.3, 5.4)]
SPECULATIVE = [
    event("drafter", "prefill", 7.0, 7.05),
    event("target", "prefill", 7.0, 7.2),
    event("drafter", "draft", 7.05, 7.15, drafted=3),
    event("target", "verify", 7.2, 7.32, drafted=3, accepted=2),
]


def test_bars_stand_where_the_events_were() -> None:
    figure = timeline_figure(PLAIN, SPECULATIVE, "measured (overlapped)")
    patches: list[Any] = list(figure.axes[0].patches)
    bars = [(round(p.get_x(), 3), round(p.get_width(), 3)) for p in patches]
    assert bars == [(0, 200), (200, 100), (300, 100), (0, 200), (200, 120), (0, 50), (50, 100)]
    assert "2/3" in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].get_title(loc="left") == "1.25x [measured (overlapped)]"


def test_shares_of_both_models_add_up() -> None:
    patches: list[Any] = list(timeline_figure(PLAIN, SPECULATIVE, "estimated").axes[1].patches)
    assert sum(p.get_height() for p in patches) == pytest.approx(200)
    assert stage_seconds(PLAIN)["target", "step"] == pytest.approx(0.2)


def test_no_events() -> None:
    with pytest.raises(ValueError, match="expected events"):
        timeline_figure([], SPECULATIVE, "estimated")
