"""The bars of an extraction against its baseline."""

import pytest
from matplotlib import pyplot as plt

from egptlib.figures._basic import extraction_figure


def test_bars_are_labelled_with_their_ratio_to_the_baseline() -> None:
    figure = extraction_figure({"one by one": 2.0, "batched": 24.0}, {"padded": 8.0, "ragged": 2.0})
    labels = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert labels == [["2 (1×)", "24 (12×)"], ["8 (1×)", "2 (0.25×)"]]
    plt.close(figure)
    with pytest.raises(ValueError, match="samples a second: expected a baseline above 0"):
        extraction_figure({"one by one": 0.0}, {"padded": 8.0})
