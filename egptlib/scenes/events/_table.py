"""Tables without names, [N, 4]: which column is which."""

from collections.abc import Callable
from typing import Any

import numpy as np

from egptlib.scenes.events._fields import POLARITIES, polarity_levels

# evlib, the Event Camera Dataset's text; MVSEC; Metavision's CSV
_ORDERS = ("txyp", "xytp", "xypt")


def find_order(sample: np.ndarray, name: str) -> dict[str, int]:
    """Return the column of x, y, t, p, told by what only that order makes of the first rows [N, 4].

    Raises:
        ValueError: none of the known orders fits, or several do.
    """
    if not np.isfinite(sample).all():
        raise ValueError(f"{name}: holds numbers that are not finite")
    fitting = [order for order in _ORDERS if _fits({key: sample[:, i] for i, key in enumerate(order)})]
    if len(fitting) != 1:
        found = " and ".join(fitting) or "none"
        raise ValueError(
            f"{name}: four columns without names; of the orders {', '.join(_ORDERS)} {found} would fit. Expected named "
            "fields x, y, t, p, or columns that tell"
        )
    return {key: i for i, key in enumerate(fitting[0])}


def _fits(columns: dict[str, np.ndarray]) -> bool:
    """Pixels are small whole numbers, polarity has two values, time does not run backwards."""
    try:
        levels = polarity_levels(columns["p"], "")
    except ValueError:
        return False
    if len(levels) > 2 or not levels <= POLARITIES:
        return False
    pixels = all(np.all((v >= 0) & (v <= 65535) & (v % 1 == 0)) for v in (columns["x"], columns["y"]))
    return bool(pixels and np.all(columns["t"][1:] >= columns["t"][:-1]))


def matrix_columns(matrix: Any, order: dict[str, int]) -> Callable[[slice, tuple[str, ...]], dict[str, np.ndarray]]:
    """Return how to take named columns of some rows of `matrix` (an array, or a dataset on disk)."""

    def take(rows: slice, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        block = np.asarray(matrix[rows])
        return {name: block[:, order[name]] for name in names}

    return take
