"""Figures of the extraction: its rate and its bytes against the earlier method."""

from collections.abc import Mapping

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from egptlib.figures._style import DOUBLE_COLUMN, NEUTRAL_COLOR, PALETTE, style


def extraction_figure(rates: Mapping[str, float], megabytes: Mapping[str, float]) -> Figure:
    """Two rows of bars: samples a second and MB on disk, per method, the first one being the baseline.

    Raises:
        ValueError: a mapping is empty, or its baseline is not positive.
    """
    with plt.rc_context(style()):
        figure, axes = plt.subplots(1, 2, figsize=(DOUBLE_COLUMN, 0.7 + 0.4 * max(len(rates), len(megabytes))))
        for ax, values, title in zip(axes, (rates, megabytes), ("samples a second", "MB on disk")):
            names, numbers = list(values), list(values.values())
            if not numbers or numbers[0] <= 0:
                raise ValueError(f"{title}: expected a baseline above 0, found {numbers[:1]}")
            bars = ax.barh(names, numbers, color=[NEUTRAL_COLOR] + [PALETTE[2]] * (len(numbers) - 1), height=0.6)
            ax.bar_label(bars, [f"{n:.3g} ({n / numbers[0]:.2g}×)" for n in numbers], padding=4)
            ax.invert_yaxis()
            ax.set_title(title)
            ax.grid(False)
            ax.set_xlim(0, 1.45 * max(numbers))
    return figure
