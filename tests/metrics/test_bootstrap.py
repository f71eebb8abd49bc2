"""The bootstrap against resampling written out as its description says it."""

import numpy as np
import pytest

from egptlib.metrics._bootstrap import NUM_RESAMPLES, bootstrap

ROWS = [(4, 1), (2, 0), (5, 3), (1, 1), (3, 0), (6, 2)]
SCENES = ["a", "b", "a", "c", "b", "c"]


def by_hand(sums: list[tuple[int, int]]) -> tuple[float, float, float]:
    """Every resample drawn as counts of its clusters; the percentiles between its sorted rates."""
    counts = np.random.default_rng(0).multinomial(len(sums), [1 / len(sums)] * len(sums), NUM_RESAMPLES).tolist()
    rates = []
    for count in counts:
        tokens, rejected = (sum(n * row[i] for n, row in zip(count, sums)) for i in (0, 1))
        if tokens:
            rates.append(rejected / tokens)
    rates.sort()
    low, high = (np.interp(q * (len(rates) - 1), range(len(rates)), rates) for q in (0.025, 0.975))
    return sum(r for _, r in sums) / sum(t for t, _ in sums), float(low), float(high)


def test_samples_of_a_scene_are_drawn_together() -> None:
    found = bootstrap(ROWS, lambda sums: sums[..., 1] / sums[..., 0], SCENES)
    assert found == pytest.approx(by_hand([(9, 4), (5, 0), (7, 3)]))
    alone = bootstrap(ROWS, lambda sums: sums[..., 1] / sums[..., 0])
    assert alone == pytest.approx(by_hand(ROWS)) and alone.low != found.low
    assert NUM_RESAMPLES == 2000


def test_a_resample_without_anything_to_divide_by_does_not_count() -> None:
    found = bootstrap([(2, 1), (0, 0)], lambda sums: sums[..., 1] / sums[..., 0], iter("ab"))
    assert found == (0.5, 0.5, 0.5)


def test_samples_and_clusters_have_to_be_there() -> None:
    share = lambda sums: sums[..., 0] / sums[..., 1]  # noqa: E731
    with pytest.raises(ValueError, match=r"at least one sample, got \[0, 2\]"):
        bootstrap(np.zeros((0, 2)), share)
    with pytest.raises(ValueError, match="clusters of 2 samples for 1"):
        bootstrap(np.ones((1, 2)), share, ["a", "b"])  # numpy would have spread the one over both
