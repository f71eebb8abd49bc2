"""Which tokens are rejected: rates by any label of a token, with intervals over clusters of samples."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from egptlib.metrics._bootstrap import Estimate, bootstrap


@dataclass(frozen=True)
class Rejections:
    """How many tokens there are of each label, and how many of them are rejected, cluster by cluster.

    Intervals are bootstrapped over clusters: the tokens of one scene stand or fall together, so that an interval over
    tokens would be far too narrow.

    Attributes:
        labels: names, in the order of the columns.
        tokens, rejected: int64 [cluster, label].
    """

    labels: tuple[str, ...]
    tokens: np.ndarray[Any, np.dtype[np.int64]]
    rejected: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def count(
        cls,
        labels: Sequence[Sequence[str]],
        matches: Sequence[Tensor],
        clusters: Iterable[Hashable] | None = None,
        order: Sequence[str] = (),
    ) -> Rejections:
        """Count labelled tokens.

        Args:
            labels: per sample the label of each token of the target's; "" leaves a token out.
            matches: per sample bool [n], whether the drafter's token there is the target's.
            clusters: what each sample belongs to, such as its sequence; None: each to itself.
            order: labels that come first, in this order; those without a token are dropped.

        Raises:
            ValueError: the numbers of samples or of tokens differ, or no token has a label.
        """
        if len(labels) != len(matches):
            raise ValueError(f"labels of {len(labels)} samples and matches of {len(matches)}: expected as many")
        names = list(clusters) if clusters is not None else list(range(len(labels)))
        if len(names) != len(labels):
            raise ValueError(f"clusters of {len(names)} samples and labels of {len(labels)}: expected as many")
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        found = {label for row in labels for label in row if label}
        columns = [label for label in order if label in found]
        columns += sorted(found.difference(columns))
        if not columns:
            raise ValueError("labels: no token has one, there is nothing to measure")
        column = {label: i for i, label in enumerate(columns)}
        tokens = np.zeros((len(numbers), len(columns)), dtype=np.int64)
        rejected = np.zeros_like(tokens)
        for i, (row, match, name) in enumerate(zip(labels, matches, names)):
            if len(row) != len(match):
                raise ValueError(f"sample {i}: {len(row)} labels and {len(match)} matches: expected one a token")
            for label, equal in zip(row, match.tolist()):
                if label:
                    tokens[numbers[name], column[label]] += 1
                    rejected[numbers[name], column[label]] += not equal
        return cls(tuple(columns), tokens, rejected)

    def merged(self, groups: Mapping[str, Sequence[str]]) -> Rejections:
        """Several labels as one: `groups` is new label -> labels; groups of which nothing occurs are left out."""
        kept = {
            name: [self.labels.index(part) for part in parts if part in self.labels] for name, parts in groups.items()
        }
        kept = {name: columns for name, columns in kept.items() if columns}
        tokens, rejected = (
            np.stack([counts[:, places].sum(axis=1) for places in kept.values()], axis=1)
            for counts in (self.tokens, self.rejected)
        )
        return Rejections(tuple(kept), tokens, rejected)

    def rate(self, label: str) -> Estimate:
        """Share of the label's tokens that are rejected."""
        return bootstrap(self._counts(label), lambda sums: sums[..., 1] / sums[..., 0])

    def difference(self, label: str, other: str) -> Estimate:
        """Rate of `label` minus rate of `other`, both in the same resamples."""
        counts = np.concatenate([self._counts(label), self._counts(other)], axis=1)
        return bootstrap(counts, lambda sums: sums[..., 1] / sums[..., 0] - sums[..., 3] / sums[..., 2])

    def rows(self) -> list[dict[str, Any]]:
        """One row a label: label, tokens, rejected, rate, low, high, share of all rejections."""
        total = max(1, int(self.rejected.sum()))
        return [
            {
                "label": label,
                "tokens": int(self.tokens[:, i].sum()),
                "rejected": int(self.rejected[:, i].sum()),
                **dict(zip(("rate", "low", "high"), self.rate(label))),
                "share": int(self.rejected[:, i].sum()) / total,
            }
            for i, label in enumerate(self.labels)
        ]

    def _counts(self, label: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens and rejected ones of a label, int64 [cluster, 2]."""
        if label not in self.labels:
            raise ValueError(f"label {label!r}: expected one of {', '.join(self.labels)}")
        at = self.labels.index(label)
        return np.stack([self.tokens[:, at], self.rejected[:, at]], axis=1)


def bin_names(edges: Sequence[float]) -> list[str]:
    """Names of the bins that rising edges part, the open ones at both ends included."""
    inner = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return [f"below {edges[0]:g}", *inner, f"{edges[-1]:g} and more"]


def binned(values: Tensor, edges: Sequence[float]) -> list[str]:
    """The bin of each value, as a label for `Rejections.count`; a value on an edge belongs to the bin above it."""
    names = bin_names(edges)
    return [names[i] for i in np.digitize(values.numpy(), edges)]
