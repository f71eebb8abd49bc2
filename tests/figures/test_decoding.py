"""Figures of decoding say which methods are lossy, and lose no token of the answer that they show."""

from itertools import combinations

import pytest
from matplotlib.colors import to_rgba

from egptlib.figures._decoding import accepted_lengths_figure, methods_figure, positions_figure, tokens_figure
from egptlib.figures._style import DRAFTER_COLOR, TARGET_COLOR


def test_lossy_methods_are_told_apart() -> None:
    figure = methods_figure({"generate": (1.0, 1.0, 1.0), "top-3": (1.5, 1.4, 1.6)}, lossy=["top-3"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lossless", "lossy"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["generate", "top-3"]


def test_histogram_shares_and_mean() -> None:
    axes = accepted_lengths_figure({"gamma 3": {0: 1, 2: 3}}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [25.0, 75.0]  # type: ignore[attr-defined]
    assert "mean 1.50 of 4" in axes.get_title(loc="left")
    with pytest.raises(ValueError, match="'n-grams'"):
        accepted_lengths_figure({"n-grams": {}})


def test_titles_of_many_methods_do_not_overlap_and_legends_hide_no_line() -> None:
    names = [f"EventGPT, gamma {i}, 2 threads" for i in range(9)]
    figure = accepted_lengths_figure({name: {0: 1, 8: 3} for name in names})
    figure.canvas.draw()
    titles = [axes._left_title.get_window_extent() for axes in figure.axes[:9]]  # type: ignore[attr-defined]
    assert not any(a.overlaps(b) for a, b in combinations(titles, 2))
    figure = positions_figure({name: [0.9, 0.1] for name in names})
    figure.canvas.draw()
    (axes,), legend = figure.axes, figure.axes[0].get_legend()
    assert legend and not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_positions_count_from_one() -> None:
    line = positions_figure({"gamma 3": [0.9, 0.5]}).axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 2] and line.get_ydata().tolist() == [90, 50]  # type: ignore[union-attr]


def test_no_method_is_left_out() -> None:
    shares = {f"gamma {i}": [0.9, 0.5] for i in range(1, 8)}
    assert len(positions_figure(shares).axes[0].lines) == 7


def test_every_token_is_drawn_in_the_colour_of_its_fate() -> None:
    axes = tokens_figure(["A"], [(["car", "is"], ["red"], ["blue"]), ([], [], ["$"])]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["A", "car", "is", "blue", "red", "$"]
    own, kept, white = to_rgba(TARGET_COLOR), to_rgba(DRAFTER_COLOR), (1, 1, 1, 1)
    assert [bar.get_facecolor() for bar in axes.patches] == [own, kept, kept, own, white, own]
