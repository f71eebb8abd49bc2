"""One place for the look of every figure: colours, widths, fonts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with every common form of colour blindness, and in grey.
DRAFTER_COLOR = "#D55E00"  # vermillion
TARGET_COLOR = "#0072B2"  # blue
PALETTE = [TARGET_COLOR, DRAFTER_COLOR, "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"]
NEUTRAL_COLOR = "#6B7280"  # axes, reference lines, what belongs to neither model

# Widths in inches of a two-column paper; a figure in a report uses DOUBLE_COLUMN.
SINGLE_COLUMN = 3.35
DOUBLE_COLUMN = 7.0


def style() -> dict[Any, Any]:
    """Return matplotlib's settings for this repository, for ``matplotlib.rc_context(style())``."""
    from cycler import cycler

    return {
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": NEUTRAL_COLOR,
        "axes.labelsize": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": "#E5E7EB",
        "grid.linewidth": 0.6,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.color": NEUTRAL_COLOR,
        "ytick.color": NEUTRAL_COLOR,
        "xtick.labelcolor": "black",
        "ytick.labelcolor": "black",
        "legend.fontsize": 8,
        "legend.frameon": False,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same figure on every machine
        "font.size": 9,
        "lines.linewidth": 1.5,
        "figure.figsize": (DOUBLE_COLUMN, DOUBLE_COLUMN * 0.45),
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 220,  # twice figure.dpi: sharp on a screen of two pixels a point
        "savefig.bbox": "tight",
        "pdf.fonttype": 42,  # TrueType: journals refuse Type 3 fonts
        "ps.fonttype": 42,
    }


def save_for_paper(figure: "Figure", path: Path) -> None:
    """Save at exactly the width that a figure takes in a paper, one column up to 1.4 of one, else both; `figure` keeps
    its size."""
    import matplotlib

    width, height = figure.get_size_inches()
    figure.set_size_inches(SINGLE_COLUMN if width <= 1.4 * SINGLE_COLUMN else DOUBLE_COLUMN, height)
    try:
        with matplotlib.rc_context({"savefig.bbox": "standard", "pdf.fonttype": 42}):
            figure.savefig(path)
    finally:
        figure.set_size_inches(width, height)


def apply_style() -> None:
    """Make `style()` the default of this process; notebooks call it once, at the top."""
    import matplotlib

    matplotlib.rcParams.update(style())
