"""Levels with attention, read row by row as a decoder needs them: keys and values of past rows are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from egptlib.adapters._block import BlockHead, BlockRun
from egptlib.adapters._layers import AttentionLayer
from egptlib.adapters._levels import AttentionAdapter, Head, SteppingHead
from egptlib.models import GrowingLayer, tree_depths, tree_mask


class CachedLayers:
    """Causal attention layers over one growing sequence.

    Attributes:
        length: rows in the cache.
    """

    def __init__(self, layers: Iterable[nn.Module]):
        self.layers: list[AttentionLayer] = [layer for layer in layers if isinstance(layer, AttentionLayer)]
        self.length = 0
        self._past = [GrowingLayer() for _ in self.layers]  # keys and values [1, heads, length, e]

    def crop(self, length: int) -> None:
        """Forget the rows from `length` on."""
        if length < self.length:
            for past in self._past:
                past.crop(length - self.length)
            self.length = length

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Begin with the keys and values [heads, n, e] of rows whose own output nobody wants: of a single layer."""
        self._past[0].update(keys[None], values[None])
        self.length = keys.shape[1]

    def __call__(
        self, x: Float[Tensor, "rows input"], places: Tensor | None = None, sees: Tensor | None = None
    ) -> Float[Tensor, "rows hidden"]:
        """Read more rows.

        Args:
            places: int64 [rows], the position of each; None: one after the other.
            sees: [rows, length + rows], added to the scores; None: causal.
        """
        n, past = len(x), self.length
        places = torch.arange(past, past + n, device=x.device) if places is None else places
        if sees is None and n > 1:
            sees = torch.ones(n, past + n, dtype=torch.bool, device=x.device).tril(past)
        for layer, kept in zip(self.layers, self._past, strict=True):
            q, k, v = layer.heads(x[None], places)  # [1, heads, n, e] each
            attended = F.scaled_dot_product_attention(q, *kept.update(k, v), attn_mask=sees)[0]
            x = layer.finish(x[None], attended.transpose(0, 1).reshape(1, n, -1))[0]
        self.length = past + n
        return x


class AlignerRun:
    """A causal L4 over one growing sequence; the numbers are those of its `forward`.

    Raises:
        ValueError: the level looks ahead.
    """

    def __init__(self, adapter: AttentionAdapter):
        if not adapter.settings.causal:
            raise ValueError(f"adapter {adapter.level}: it looks ahead of the row it aligns, which no drafter can do")
        self.adapter, self.cache = adapter, CachedLayers(adapter.layers)

    @property
    def length(self) -> int:
        """Rows read."""
        return self.cache.length

    def crop(self, length: int) -> None:
        """Forget the rows from `length` on."""
        self.cache.crop(length)

    def read(self, rows: Float[Tensor, "rows drafter"]) -> Float[Tensor, "rows hidden"]:
        """Align more rows."""
        h = self.adapter.bridge(rows)
        x = self.cache(h)
        return h + self.adapter.scale * (self.adapter.output(self.adapter.output_norm(x)) - h)


class HeadRun:
    """A head over one growing sequence: it reads what is known, and runs ahead from the last of it.

    The numbers are those of `SteppingHead.ahead` at that row. Each known row is read once; what was run ahead is
    forgotten at the next `read`.

    Attributes:
        length: known rows read.
        before: rows of the prompt.
    """

    def __init__(self, head: SteppingHead):
        self.head, self.cache, self.length, self.before = head, CachedLayers(head.layers), 0, 0
        self._fed = torch.empty(0)
        self._tree, self._fed_by_node = list[int](), list[Tensor]()

    def begin(self, *given: Tensor) -> None:
        """Read the rows of the prompt, before any other."""
        valid = torch.ones(1, len(given[0]), dtype=torch.bool)
        keys, values, _ = self.head.before(valid, *(rows[None] for rows in given))
        self.cache.put(keys[0], values[0])
        self.before = self.cache.length

    def crop(self, length: int) -> None:
        """Forget the known rows from `length` on."""
        self.cache.crop(self.before + length)
        self.length = min(self.length, length)

    def read(self, *given: Tensor) -> Float[Tensor, " hidden"]:
        """Read more known rows, [k, ...] each as named by the head's `inputs`; the state predicted after the last.

        Raises:
            ValueError: more positions than the head has learned.
        """
        self.cache.crop(self.before + self.length)
        self._tree, self._fed_by_node = [], []
        state = self._run(given, None)
        self.length = self.cache.length - self.before
        return state

    def go_on(self, *given: Tensor) -> Float[Tensor, " hidden"]:
        """The state predicted one row further, from the head's own last prediction.

        Args:
            given: the row just behind the last prediction, [1, ...] each. The head looks only at what is known of it
                while drafting (tokens, the drafter's state); the rest may be empty.
        """
        return self._run(given, self._fed)

    def branch(self, parents: Sequence[int], *given: Tensor) -> Float[Tensor, "nodes hidden"]:
        """The states predicted behind nodes of a tree, from what the head predicted at their parents.

        Args:
            parents: of these nodes, numbered as they come since the last `read`; -1: the last known row.
            given: the nodes' rows, [n, ...] each, as in `go_on`.
        """
        self._tree += parents
        fed = torch.stack([self._fed_by_node[node] if node >= 0 else self._fed[0, -1] for node in parents])
        start, x = self.head._enter([rows[None] for rows in given], 0, fed[None])
        known = self.before + self.length
        places = known + torch.tensor(tree_depths(self._tree)[-len(parents) :], device=x.device)
        mask = tree_mask(known, self._tree, len(parents)).to(x)
        x = self.cache(self.head._placed(x, places)[0], places, mask)
        states, fed = self.head._leave(start, x[None])
        self._fed_by_node += fed[0]
        return states[0]

    def _run(self, given: tuple[Tensor, ...], fed: Tensor | None) -> Tensor:
        # As at depth 0: the rows are the very ones meant, not to be moved.
        start, x = self.head._enter([rows[None] for rows in given], 0, fed)
        first, last = self.cache.length, self.cache.length + x.shape[1]
        if last > self.head.settings.max_positions:
            raise ValueError(
                f"{self.head.level}: {last} positions; it was built for {self.head.settings.max_positions}"
            )
        x = self.cache(self.head._placed(x, torch.arange(first, last, device=x.device))[0])
        state, self._fed = self.head._leave(start[:, -1:], x[None, -1:])
        return state[0, 0]


def head_run(head: Head) -> HeadRun | BlockRun:
    """A head at the beginning of a sequence, before it has read anything."""
    if isinstance(head, BlockHead):
        return BlockRun(head)
    assert isinstance(head, SteppingHead)
    return HeadRun(head)
