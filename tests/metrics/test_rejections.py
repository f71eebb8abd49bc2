"""Rejections against a plain count and a plain bootstrap; labels that group; misuse."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from egptlib.metrics import Rejections, bin_names, binned, bootstrap

samples = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.tuples(st.sampled_from(["a", "b", ""]), st.booleans()), max_size=6)),
    min_size=1,
    max_size=8,
)


@given(samples)
def test_counts_equal_the_plain_loop(rows: list[tuple[int, list[tuple[str, bool]]]]) -> None:
    labels = [[label for label, _ in row] for _, row in rows]
    matches = [torch.tensor([match for _, match in row], dtype=torch.bool) for _, row in rows]
    flat = [(label, match) for _, row in rows for label, match in row if label]
    if not flat:
        with pytest.raises(ValueError, match="nothing to measure"):
            Rejections.count(labels, matches)
        return
    found = Rejections.count(labels, matches, [cluster for cluster, _ in rows], order=("b", "a"))
    tokens, rejected = Counter(label for label, _ in flat), Counter(label for label, match in flat if not match)
    assert [row["label"] for row in found.rows()] == [label for label in ("b", "a") if tokens[label]]
    assert found.tokens.dtype == found.rejected.dtype == np.int64
    for row in found.rows():
        assert (row["tokens"], row["rejected"]) == (tokens[row["label"]], rejected[row["label"]])
        assert row["low"] <= row["rate"] + 1e-12
        assert row["rate"] <= row["high"] + 1e-12
    assert sum(row["share"] for row in found.rows()) == pytest.approx(1.0 if rejected.total() else 0.0)


def test_intervals_are_those_of_a_plain_bootstrap_over_clusters() -> None:
    rng = np.random.default_rng(1)
    right = rng.random((40, 25)) < rng.random((40, 1))  # the tokens of a cluster stand or fall together
    found = Rejections.count([["x"] * 25] * 40, list(torch.from_numpy(right))).rate("x")
    means = [1 - right[rng.integers(0, 40, 40)].mean() for _ in range(4000)]
    assert found.value == pytest.approx(1 - right.mean())
    assert found[1:] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    over_tokens = Rejections.count([["x"]] * 1000, [torch.tensor([bool(v)]) for v in right.ravel()]).rate("x")
    assert over_tokens.high - over_tokens.low < 0.5 * (found.high - found.low)


def test_a_difference_is_taken_within_each_resample() -> None:
    """Two labels that always share their fate differ by nothing, however wide each one's own interval is."""
    rows = [torch.tensor([i % 3 == 0] * 2) for i in range(12)]
    found = Rejections.count([["a", "b"]] * 12, rows)
    assert tuple(found.difference("a", "b")) == (0.0, 0.0, 0.0)
    assert found.rate("a").high > found.rate("a").low


def test_labels_merge() -> None:
    found = Rejections.count([["a", "b", "c", "c"]], [torch.tensor([False, True, False, False])])
    merged = found.merged({"first": ("a", "b"), "none": ("z",), "last": ("c",)})
    assert [(r["label"], r["tokens"], r["rejected"]) for r in merged.rows()] == [("first", 2, 1), ("last", 2, 2)]
    with pytest.raises(ValueError, match="label 'z': expected one of first, last"):
        merged.rate("z")


def test_bins() -> None:
    edges = (0.1, 1.0)
    assert bin_names(edges) == ["below 0.1", "0.1 to 1", "1 and more"]
    assert binned(torch.tensor([0.0, 0.1, 0.5, 1.0, 9.0], dtype=torch.float64), edges) == [
        "below 0.1",
        "0.1 to 1",
        "0.1 to 1",
        "1 and more",
        "1 and more",
    ]


def test_misuse_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="labels of 1 samples and matches of 2"):
        Rejections.count([["a"]], [torch.tensor([True])] * 2)
    with pytest.raises(ValueError, match="sample 0: 2 labels and 1 matches"):
        Rejections.count([["a", "b"]], [torch.tensor([True])])
    with pytest.raises(ValueError, match="clusters of 2 samples and labels of 1"):
        Rejections.count([["a"]], [torch.tensor([True])], [1, 2])


def test_a_resample_without_anything_to_divide_by_does_not_count() -> None:
    """Of two samples one has nothing: resamples of it alone are left out, and give no warning."""
    nothing = bootstrap([[0.0, 0.0], [3.0, 2.0]], lambda sums: sums[..., 0] / sums[..., 1])
    assert (nothing.low, nothing.high) == (1.5, 1.5)


def test_a_resample_that_divides_by_nothing_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ratio = bootstrap([[1.0, 0.0], [1.0, 1.0]], lambda sums: sums[..., 0] / sums[..., 1])
    assert ratio.value == 2 and ratio.low == 1  # the upper end is where a quarter of the resamples are: infinite
    assert not ratio.high < 1e9
