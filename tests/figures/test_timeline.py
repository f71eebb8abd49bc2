"""The timeline shows every event where it happened."""

from typing import Any

import pytest
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from egptlib._clock import Event, stage_seconds
from egptlib.figures import DOUBLE_COLUMN, SINGLE_COLUMN
from egptlib.figures._prediction import prediction_figure
from egptlib.figures._timeline import event_table, mean_run, recorded_runs, timeline_cursor_figure, timeline_figure


def event(lane: str, stage: str, start: float, end: float, **info: int) -> Event:
    return Event(lane, stage, start, end, info)


PLAIN = [event("target", "prefill", 5.0, 5.2), event("target", "step", 5.2, 5.3), event("target", "step", 5.3, 5.4)]
SPECULATIVE = [
    event("drafter", "prefill", 7.0, 7.05),
    event("target", "prefill", 7.0, 7.2),
    event("drafter", "draft", 7.05, 7.15, drafted=3),
    event("target", "verify", 7.2, 7.32, drafted=3, accepted=2),
]


def bars(axes: Any) -> list[tuple[float, float]]:
    """Left end and width of every bar of the lanes, from the upper lane down."""
    drawn = [collection for collection in axes.collections if not isinstance(collection, LineCollection)]
    boxes = [path.get_extents() for collection in drawn for path in collection.get_paths()]
    return [(round(box.x0, 3), round(box.width, 3)) for box in boxes]


@pytest.mark.parametrize("column", [False, True])
def test_bars_stand_where_the_events_were(column: bool) -> None:
    figure = timeline_figure(PLAIN, SPECULATIVE, "measured (overlapped)", column=column)
    assert bars(figure.axes[0]) == [(0, 200), (200, 100), (300, 100), (0, 200), (200, 120), (0, 50), (50, 100)]
    assert "2/3" in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].get_title(loc="left") == "1.25x [measured (overlapped)]"
    assert figure.get_figwidth() == (SINGLE_COLUMN if column else DOUBLE_COLUMN)


@pytest.mark.parametrize("column", [False, True])
def test_no_text_is_smaller_than_six_points(column: bool) -> None:
    figure: Any = timeline_figure(PLAIN, SPECULATIVE, "measured (overlapped)", column=column)
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 6


def test_the_cursor_draws_the_same_bars_pale_and_cuts_what_is_done() -> None:
    figure = timeline_cursor_figure(SPECULATIVE, 100)
    drafter, target = [(0, 50), (0, 50), (50, 100), (50, 50)], [(0, 200), (0, 100), (200, 120)]
    assert bars(figure.axes[0]) == drafter + target


def test_shares_of_both_models_add_up() -> None:
    patches: list[Any] = list(timeline_figure(PLAIN, SPECULATIVE, "estimated").axes[1].patches)
    assert sum(p.get_width() for p in patches) == pytest.approx(200)
    assert stage_seconds(PLAIN)["target", "step"] == pytest.approx(0.2)


def test_the_data_behind_a_timeline() -> None:
    table = event_table(plain=PLAIN, speculative=SPECULATIVE)
    assert list(table.columns) == ["side", "lane", "stage", "start", "end"]
    assert table.side.tolist() == ["plain"] * 3 + ["speculative"] * 4
    assert table.end[3] == 7.05


def test_no_events() -> None:
    with pytest.raises(ValueError, match="expected events"):
        timeline_figure([], SPECULATIVE, "estimated")


def test_the_mean_run_ends_at_the_mean_end_and_works_the_mean_time() -> None:
    other = [
        event("drafter", "prefill", 0.0, 0.09),
        event("target", "prefill", 0.0, 0.3),
        event("target", "verify", 0.3, 0.4, drafted=3, accepted=0),
        event("drafter", "draft", 0.4, 0.5, drafted=3),
        event("target", "verify", 0.5, 0.6, drafted=3, accepted=1),
        event("target", "step", 0.6, 0.7),
    ]
    mean = mean_run([SPECULATIVE, other])
    assert max(span.end for span in mean) == pytest.approx((0.32 + 0.7) / 2)
    assert sum(s.end - s.start for s in mean if s.stage == "verify") == pytest.approx((0.12 + 0.3) / 2)
    late = [s for s in mean if s.lane == "drafter" and s.start >= 0.25]
    assert sum(s.end - s.start for s in late) == pytest.approx(0.05)
    verified = next(s for s in mean if s.stage == "verify")
    assert verified.info == {"accepted": 1.0, "drafted": 3.0}
    reading = next(s for s in mean if (s.lane, s.stage) == ("target", "prefill"))
    assert (reading.start, reading.end) == pytest.approx((0.0, 0.25))
    with pytest.raises(ValueError, match="at least one run"):
        mean_run([])


def test_a_recorded_row_keeps_leading_equal_tokens_of_what_fits_the_window() -> None:
    row = {
        "target_stages": {"load": 9.0, "preprocess": 0.1, "vision": 0.1, "prefill": 0.35, "decode": 1.0},
        "drafter_stages": {"load": 9.0, "preprocess": 0.0, "vision": 0.1, "prefill": 0.1, "decode": 1.0},
        "target_ids": list(range(10)),
        "drafter_ids": [0, 1, 7, 3, 4, 5, 6, 7, 8, 9],
    }
    plain, speculative = recorded_runs(row)
    assert plain[-1].end == pytest.approx(1.55)
    verify = next(span for span in speculative if span.stage == "verify")
    assert verify.info == {"drafted": 3, "accepted": 2}  # 0.35 s of window, 0.1 s a token
    assert speculative[-1].lane == "drafter"
    assert max(span.end for span in speculative) == pytest.approx(0.55 + 0.1 * (1 + 7))


def test_predictions_stand_beside_what_was_measured() -> None:
    figure = prediction_figure({"plain": 0.11}, {"plain": 0.1})
    assert [round(patch.get_width()) for patch in figure.axes[0].patches] == [100, 110]  # type: ignore[attr-defined]
    assert "+10.0%" in figure.axes[0].texts[0].get_text()


def test_the_mean_of_runs_without_rounds_keeps_their_stages_apart() -> None:
    runs: list[list[Any]] = [
        [event("target", "prefill", 0, 1), event("target", "verify", 1, 2, drafted=4), event("target", "decode", 2, 9)],
        [
            event("target", "prefill", 5, 8),
            event("target", "verify", 8, 9, drafted=2),
            event("target", "decode", 9, 12),
        ],
    ]
    spans: dict[str, Any] = {span.stage: (span.start, span.end, span.info) for span in mean_run(runs)}
    assert spans["prefill"] == (0, 2, {})
    assert spans["verify"] == (2, 3, {"accepted": 0, "drafted": 3})
    assert spans["decode"] == (3, 8, {})
