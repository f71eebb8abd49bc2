"""Explorers show what their figure functions draw, follow their controls, and mark what would be accepted."""

import re
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from egptlib._clock import Event
from egptlib.figures import AnswerPair, browse_samples, compare_adapters, explore_acceptance, scrub_timeline
from egptlib.figures._explore import (
    acceptance_explorer_figure,
    acceptance_grid,
    adapter_comparison_figure,
)
from egptlib.figures._explorers import explore, marked_tokens, select_pairs
from egptlib.figures._timeline import timeline_cursor_figure
from egptlib.scenes import Scene

EVENTS = [
    Event("target", "prefill", 10.0, 10.3, {}),
    Event("drafter", "draft", 10.1, 10.2, {}),
    Event("target", "verify", 10.4, 10.5, {"drafted": 2, "accepted": 1}),
]


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    cosine = generator.uniform(0, 1, (7, 9))
    match = generator.uniform(0, 1, (7, 9)) < 0.7
    mask = np.arange(9)[None] < generator.integers(1, 10, 7)[:, None]
    return cosine, match, mask


def test_the_grid_is_what_counting_one_by_one_says(arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    cosine, match, mask = arrays
    grid = acceptance_grid(cosine, match, mask, thresholds=(0.2, 0.6), max_gamma=4)

    def count(accepted: np.ndarray, gamma: int) -> float:
        counts = []
        for row, valid in zip(accepted, mask):
            length = int(valid.sum())
            for start in range(length):
                draft = row[start : min(start + gamma, length)].tolist()
                counts.append(draft.index(False) if False in draft else len(draft))
        return float(np.mean(counts))

    for g, gamma in enumerate(grid.gammas):
        assert grid.exact[g] == pytest.approx(count(match, gamma))
        for t, threshold in enumerate(grid.thresholds):
            assert grid.proxy[t, g] == pytest.approx(count(cosine > threshold, gamma))
    above = (cosine > 0.6) & mask
    assert grid.share[1] == above.sum() / mask.sum() and grid.equal[1] == match[above].mean()


def _picture(widget: Any) -> Any:
    (picture,) = [w for w in _all(widget) if isinstance(w, widgets.Image)]
    return picture


def _all(widget: Any) -> list[Any]:
    return [widget, *(below for child in getattr(widget, "children", ()) for below in _all(child))]


def test_a_moved_control_changes_the_picture(arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    table = pd.DataFrame({"level": ["L1", "L2", "L3"], "cosine": [0.5, 0.6, 0.7], "match rate": [0.1, 0.2, 0.3]})
    explorers = (explore_acceptance(acceptance_grid(*arrays)), scrub_timeline(EVENTS), compare_adapters(table))
    moves: tuple[Any, ...] = (0.3, 100.0, "L2")
    for explorer, value in zip(explorers, moves):
        picture = _picture(explorer)
        before = bytes(picture.value)
        assert before.startswith(b"\x89PNG")
        slider = next(w for w in _all(explorer) if isinstance(w, widgets.FloatSlider | widgets.SelectionSlider))
        slider.value = value
        assert bytes(picture.value) != before


def test_explore_passes_each_value_by_name() -> None:
    seen = []

    def draw(**values: Any) -> Figure:
        seen.append(values)
        return Figure(figsize=(1, 1))

    a, b = widgets.IntSlider(value=3), widgets.Checkbox(value=False)
    explore(draw, a=a, b=b)
    b.value = True
    assert seen == [{"a": 3, "b": False}, {"a": 3, "b": True}]


def test_the_cursor_says_what_each_model_does_then() -> None:
    def title(at: float | None) -> str:
        return str(timeline_cursor_figure(EVENTS, at).axes[0].get_title(loc="left"))

    assert title(150) == "150.0 of 500.0 ms: drafter draft, target prefill"
    assert title(350) == "350.0 of 500.0 ms: drafter waits, target waits"
    assert title(None) == "500.0 of 500.0 ms"


def test_figures_show_the_nearest_point_and_the_same_scale(arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    grid = acceptance_grid(*arrays)
    left, right = acceptance_explorer_figure(grid, 0.503, 99).axes
    assert left.get_title(loc="left").startswith("gamma 12:") and "threshold 0.50" in right.get_title(loc="left")
    table = pd.DataFrame({"level": ["L1", "L2", "L3"], "rate": [0.5, 0.6, 0.7], "text": ["a", "b", "c"]})
    drawn = {name: adapter_comparison_figure(table, "L1", name).axes[0] for name in ("L2", "L3")}
    assert len({axes.get_ylim() for axes in drawn.values()}) == 1
    heights = [bar.get_height() for bar in drawn["L2"].patches]  # type: ignore[attr-defined]
    assert heights == pytest.approx([0.5 / 0.7, 0.6 / 0.7])  # in shares of the largest, chosen or not
    assert {text.get_text() for text in drawn["L2"].texts} == {"0.5", "0.6", "rate"}


def _scene(name: str, sequence: str, **metadata: Any) -> Scene:
    image = np.full((8, 12, 3), 255, np.uint8)
    return Scene(
        id=name, sequence=sequence, event_images=[image], frames=np.stack([image] * 8),
        questions=("q1", "q2"),
        answers=("a1", "a2"), rendering="last", frame_sampling="even", frame_indices=tuple(range(8)), metadata=metadata,
    )  # fmt: skip


SCENES = [_scene("s0", "one", events="simulated", slots={"lanes": 2}), _scene("s1", "two", events="recorded")]
PAIRS = [
    AnswerPair("s0", "q1", ["▁a", "▁b", "▁c"], ["▁a", "▁x", "▁c"]),
    AnswerPair("s0", "q2", ["▁a"], ["▁a"]),
    AnswerPair("s1", "q1", ["▁<b>"], ["▁a", "▁b"]),
]


def test_filters_are_joined() -> None:
    by_id = {scene.id: scene for scene in SCENES}
    assert select_pairs(PAIRS, by_id) == PAIRS
    assert select_pairs(PAIRS, by_id, disagreeing=True) == [PAIRS[0], PAIRS[2]]
    assert select_pairs(PAIRS, by_id, question="q1", sequence="two") == [PAIRS[2]]
    assert select_pairs(PAIRS, by_id, events="streets") == PAIRS[:2]
    assert select_pairs(PAIRS, by_id, events="recorded", question="q2") == []


def test_tokens_that_would_be_accepted_are_marked() -> None:
    marked = re.findall(r'<span style="([^;"]*);[^>]*>([^<]*)</span>', marked_tokens(PAIRS[0]))
    assert [text for style, text in marked if style.startswith("background:#A6D8C6")] == [" a", " a"]
    assert [text for style, text in marked if style.startswith("background:#F6C8A8")] == [" b"]
    assert "1 of 3 drafted tokens" in marked_tokens(PAIRS[0])
    assert "<td>q1</td>" in marked_tokens(PAIRS[0]) and "<td>a &gt; b</td>" in marked_tokens(PAIRS[0], "a > b")
    assert "&lt;b&gt;" in marked_tokens(PAIRS[2]) and "0 of 1 drafted tokens" in marked_tokens(PAIRS[2])
    assert [pair.num_accepted for pair in PAIRS] == [1, 1, 0] and [pair.agree for pair in PAIRS] == [False, True, False]


def test_the_browser_shows_the_chosen_sample_and_survives_an_empty_choice() -> None:
    browser = browse_samples(SCENES, PAIRS)
    (slider,) = [w for w in _all(browser) if isinstance(w, widgets.IntSlider)]
    (disagreeing,) = [w for w in _all(browser) if isinstance(w, widgets.Checkbox)]
    menus = {w.description: w for w in _all(browser) if isinstance(w, widgets.Dropdown)}
    words = [w for w in _all(browser) if type(w) is widgets.HTML]
    picture, before = _picture(browser), bytes(_picture(browser).value)
    slider.value = 2
    assert bytes(picture.value) != before and any("0 of 1 drafted" in w.value for w in words)
    disagreeing.value = True
    assert slider.max == 1 and slider.value == 1
    menus["question"].value = "q2"
    assert any(w.value == "0 of 3 samples" for w in words) and picture.layout.visibility == "hidden"
    menus["question"].value = ""
    assert picture.layout.visibility == "visible"
