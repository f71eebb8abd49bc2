"""The one bootstrap: a statistic of sums over samples, and its 95 % interval over what samples belong to."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

NUM_RESAMPLES = 2000


class Estimate(NamedTuple):
    """A figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap(
    columns: Any, statistic: Callable[[ndarray], Any], clusters: Iterable[Hashable] | None = None
) -> Estimate:
    """Estimate a statistic of sums; percentile interval, 2,000 resamples, fixed seed (Efron & Tibshirani 1993, ch. 13).

    Args:
        columns: numbers [sample, column] that add up over samples, such as tokens and rejected ones.
        statistic: from sums [..., column] to [...]; where a resample leaves nothing to divide by, it does not count.
        clusters: what each sample belongs to, such as its sequence; resampled as wholes, since samples of one stand or
            fall together. None: each to itself.

    Raises:
        ValueError: no samples, or not as many clusters.
    """
    rows = np.asarray(columns, dtype=float)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"bootstrap: expected numbers [sample, column] of at least one sample, got {list(rows.shape)}")
    if clusters is not None:
        names = list(clusters)
        if len(names) != len(rows):
            raise ValueError(f"bootstrap: clusters of {len(names)} samples for {len(rows)}: expected as many")
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        sums = np.zeros((len(numbers), rows.shape[1]))
        np.add.at(sums, [numbers[name] for name in names], rows)
        rows = sums
    weights = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), NUM_RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.nanquantile(statistic(weights @ rows), [0.025, 0.975])
    return Estimate(float(statistic(rows.sum(axis=0))), float(low), float(high))
