"""Figures show the numbers they were given, say their units, and keep everything on the paper."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from egptlib.figures import DRAFTER_COLOR, TARGET_COLOR
from egptlib.figures import _basic as figures
from egptlib.figures._basic import extraction_figure
from egptlib.figures._scene import scene_figure
from egptlib.scenes import Scene

RANDOM = np.random.default_rng(3)
COSINES = {"one": RANDOM.uniform(0.5, 1, 400), "two": RANDOM.uniform(-0.2, 0.4, 300)}
TABLE = [
    {"position": p, "mean": 0.9, "std": 0.1, "num_samples": 40 - p, "accept_80": 0.9 - 0.01 * p, "accept_90": 0.5}
    for p in range(30)
]
PLAN = [
    {"model": model, "part": part, "float32": 2.0 * size, "bfloat16": size, "int8": size / 2, "nf4": size / 4}
    for model in ("EventGPT", "Video-LLaVA")
    for part, size in (("vision tower", 0.6), ("language model", 12.0), ("lm_head", 0.3))
]
TIMES = {
    "drafter": {"load": 0.01, "preprocess": 0.02, "vision": 0.01, "prefill": 0.09, "decode": 0.47},
    "target": {"load": 0.02, "preprocess": 0.03, "vision": 0.0, "prefill": 0.33, "decode": 0.75},
}


def make_scene(views: int = 5, frames: int = 8) -> Scene:
    return Scene(
        id="0001", sequence="seq", event_images=[np.full((30, 40, 3), 255, np.uint8)] * views,
        frames=RANDOM.integers(0, 256, (frames, 30, 40, 3), dtype=np.uint8), questions=("What?",), answers=None,
        rendering="last", frame_sampling="even", frame_indices=tuple(range(frames)), metadata={"events": "simulated"},
    )  # fmt: skip


def scene_texts(figure: Figure) -> str:
    return " ".join(text.get_text().replace("\n", ", ") for text in figure.findobj(matplotlib.text.Text))


DRAWN: dict[str, Callable[[], Figure]] = {
    "similarity": lambda: figures.similarity_figure(COSINES),
    "per_position": lambda: figures.per_position_figure({"a": TABLE, "b": TABLE[:9]}, {"a": [0.3] * 30}),
    "consecutive": lambda: figures.consecutive_figure({"a": [0, 3, 5]}, {"b": [1, 1, 2]}),
    "proxy": lambda: figures.proxy_figure(COSINES["one"], COSINES["one"] > 0.8),
    "lengths": lambda: figures.lengths_figure({"drafter": [3, 4, 9], "target": [10, 10, 2]}, limit=10),
    "memory": lambda: figures.memory_figure(PLAN),
    "stage_times": lambda: figures.stage_times_figure(TIMES),
}


@pytest.mark.parametrize("name", DRAWN)
def test_axes_say_what_they_show_and_in_what_unit(name: str) -> None:
    figure = DRAWN[name]()
    labels = {axes.get_xlabel() for axes in figure.axes} | {axes.get_ylabel() for axes in figure.axes}
    units = ("(%)", "(token)", "(tokens)", "(GiB)", "(ms)", "cosine", "answers", "tokens")
    assert all(any(unit in label for unit in units) for label in labels - {""})
    assert any(axes.get_xlabel() for axes in figure.axes)


@pytest.mark.parametrize("name", [*DRAWN, "scene"])
def test_nothing_leaves_the_paper_and_no_setting_leaks(name: str) -> None:
    before = dict(matplotlib.rcParams)
    long = "a red car that turns left in front of a white van, " * 8
    figure = scene_figure(make_scene(), long, long, long, long) if name == "scene" else DRAWN[name]()
    assert dict(matplotlib.rcParams) == before
    assert figure.get_figwidth() <= 7.0
    figure.draw_without_rendering()
    box, paper = figure.get_tightbbox(), figure.bbox_inches
    assert box.x0 >= paper.x0 - 0.05 and box.y0 >= paper.y0 - 0.05
    assert box.x1 <= paper.x1 + 0.05 and box.y1 <= paper.y1 + 0.05


def test_similarity_histogram_counts_every_position_once() -> None:
    figure = figures.similarity_figure(COSINES, thresholds=(0.8,), bins=20)
    filled = [patch for patch in figure.axes[0].patches if patch.get_alpha() == 0.25]
    assert len(filled) == 2
    for patch, values in zip(filled, COSINES.values()):
        corners = patch.get_xy()  # type: ignore[attr-defined]
        edges, heights = corners[0:41:2, 0], corners[1:41:2, 1]
        assert np.allclose(heights, 100 * np.histogram(values, edges)[0] / values.size)
        assert heights.sum() == pytest.approx(100)
    share = (COSINES["one"] > 0.8).mean()
    assert f"> 0.80: {share:.0%} | 0%" in [text.get_text() for text in figure.axes[0].texts]


def test_per_position_lines_are_the_table() -> None:
    figure = figures.per_position_figure({"a": TABLE}, {"a": [0.01 * p for p in range(30)]})
    upper, lower = figure.axes
    lines = {str(line.get_label()): line for line in upper.lines}
    assert np.allclose(np.asarray(lines["cosine > 0.80"].get_ydata()), [100 * row["accept_80"] for row in TABLE])
    assert np.allclose(np.asarray(lines["token equal (exact)"].get_ydata()), np.arange(30))
    assert np.allclose(np.asarray(lines["cosine > 0.90"].get_xdata()), np.arange(1, 31))
    assert [bar.get_height() for bar in lower.patches] == [row["num_samples"] for row in TABLE]  # type: ignore[attr-defined]


def test_consecutive_curve_is_the_share_of_answers_that_get_so_far() -> None:
    figure = figures.consecutive_figure({"a": np.array([0, 2, 2, 5])})
    (line,) = figure.axes[0].lines
    assert np.asarray(line.get_ydata()).tolist() == [75, 75, 25, 25, 25, 0]
    assert line.get_label() == "a (mean 2.25)"


def test_proxy_shares_are_those_of_the_bins() -> None:
    cosine = np.array([0.51, 0.52, 0.53, 0.99, 0.98])
    figure = figures.proxy_figure(cosine, np.array([1, 0, 0, 1, 1]), bins=2)
    (points,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert np.allclose(np.asarray(points.get_ydata()), [100 / 3, 100])
    assert [bar.get_height() for bar in figure.axes[1].patches] == pytest.approx([60, 40])  # type: ignore[attr-defined]


def test_memory_and_time_bars_add_up() -> None:
    axes = figures.memory_figure(PLAN).axes[0]
    totals = [text.get_text() for text in axes.texts]
    assert totals == [f"{12.9 * factor:.2f}" for factor in (2, 1, 0.5, 0.25)] * 2
    times = [text.get_text() for text in figures.stage_times_figure(TIMES).axes[0].texts]
    assert times == ["600 ms", "1,130 ms"]


@pytest.mark.parametrize(("views", "frames"), [(1, 8), (5, 8), (2, 1), (1, 3)])
def test_scene_figure_shows_every_picture(views: int, frames: int) -> None:
    figure = scene_figure(make_scene(views, frames), "What?", "a car", "two cars")
    frames_drawn = [len(axes.collections[0].get_paths()) for axes in figure.axes]
    assert frames_drawn == [views, frames]
    text = scene_texts(figure)
    assert "simulated events, last event wins" in text and "evenly spaced" in text
    assert "truth" not in text


@pytest.mark.parametrize(
    ("events", "rendering", "expected"),
    [
        ("recorded", "polarity", "recorded events, positive, then negative"),
        (None, "stored", "unknown origin, as stored"),
    ],
)
def test_scene_figure_says_where_the_events_are_from(events: Any, rendering: str, expected: str) -> None:
    scene = replace(make_scene(), rendering=rendering, metadata={"events": events} if events else {})
    assert expected in scene_texts(scene_figure(scene, "What?", "", "b", "c"))
    assert "(says nothing)" in scene_texts(scene_figure(scene, "What?", "", "b"))


def test_event_images_of_different_sizes_fit_in_one_scene() -> None:
    scene = make_scene()
    uneven = [image[: 30 - i, : 40 - 2 * i] for i, image in enumerate(scene.event_images)]
    assert sheets(replace(scene, event_images=uneven)) == sheets(scene)


def sheets(scene: Scene) -> list[tuple[int, ...]]:
    return [axes.images[0].get_size() for axes in scene_figure(scene, "What?", "a", "b").axes]


def test_scene_figure_takes_any_text() -> None:
    """Formulas are no formulas here, and control characters are not drawn."""
    figure = scene_figure(make_scene(), "costs $5 or $^", "a\x0e\x1fb\n", "\x00", "100 % $x_1$")
    figure.draw_without_rendering()
    text = scene_texts(figure)
    assert "costs $5 or $^" in text and "a  b" in text and "100 % $x_1$" in text


def test_models_keep_their_colours() -> None:
    figure = figures.lengths_figure({"target": [1, 2], "drafter": [2, 3]})
    edge = {str(p.get_label()).split()[0]: matplotlib.colors.to_hex(p.get_edgecolor()) for p in figure.axes[0].patches}
    assert edge["target"] == TARGET_COLOR.lower()
    assert edge["drafter"] == DRAFTER_COLOR.lower()


def test_bars_are_labelled_with_their_ratio_to_the_baseline() -> None:
    figure = extraction_figure({"one by one": 2.0, "batched": 24.0}, {"padded": 8.0, "ragged": 2.0})
    labels = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert labels == [["2 (1×)", "24 (12×)"], ["8 (1×)", "2 (0.25×)"]]
    plt.close(figure)
    with pytest.raises(ValueError, match="samples a second: expected a baseline above 0"):
        extraction_figure({"one by one": 0.0}, {"padded": 8.0})
