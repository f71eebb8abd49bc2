"""DF: a head that names all tokens of a draft in one pass, after DFlash (Chen et al. 2026, arXiv 2602.06036)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from egptlib.adapters._layers import Before, Dropout, rotated, rotation
from egptlib.adapters._levels import Head, register
from egptlib.adapters._settings import AdapterSettings
from egptlib.models import GrowingLayer

Kept = tuple[Float[Tensor, "batch known heads width"], Float[Tensor, "batch known heads width"]]
"""Keys and values that a layer has of the target's rows."""


class BlockLayer(nn.Module):
    """A Llama layer whose queries are a block, and whose keys and values are the target's rows and the block."""

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__()
        s, size = settings, settings.hidden_size
        self.heads, self.theta = s.num_heads, s.rope_theta
        self.norm, self.mlp_norm = (nn.RMSNorm(size, eps=s.norm_eps) for _ in range(2))
        self.q, self.k, self.v, self.out = (nn.Linear(size, size, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(size, s.ffn_dim, bias=False) for _ in range(2))
        self.down = nn.Linear(s.ffn_dim, size, bias=False)
        self.dropout = Dropout(s.dropout)

    def keys(self, rows: Float[Tensor, "*rows hidden"], places: Int[Tensor, "*places"]) -> Kept:
        """Keys and values of rows at positions; `places` has the shape of the rows' last dimensions but one."""
        return self._turned(self.k(rows), places), self.v(rows).unflatten(-1, (self.heads, -1))

    def _turned(self, x: Tensor, places: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.heads, -1))
        cos, sin = rotation(places.flatten(), x.shape[-1], self.theta, x.dtype)
        shape = (*places.shape, 1, x.shape[-1])
        return rotated(x, cos.view(shape), sin.view(shape))

    def forward(
        self,
        x: Float[Tensor, "batch time block hidden"],
        places: Int[Tensor, "time block"],
        known: Kept,
        seen: Bool[Tensor, "time known"],
    ) -> Float[Tensor, "batch time block hidden"]:
        """Blocks at positions `places`; block t sees itself, and of the target's rows those that `seen` says."""
        rows = self.norm(x)
        q = self._turned(self.q(rows), places) * (x.shape[-1] // self.heads) ** -0.5
        k, v = self.keys(rows, places)
        far = torch.einsum("btshe,bche->bthsc", q, known[0]).masked_fill(~seen[:, None, None], float("-inf"))
        near = torch.einsum("btshe,btrhe->bthsr", q, k)
        weights = torch.cat([far, near], dim=-1).softmax(dim=-1)
        count = far.shape[-1]
        mixed = torch.einsum("bthsc,bche->btshe", weights[..., :count], known[1])
        mixed = mixed + torch.einsum("bthsr,btrhe->btshe", weights[..., count:], v)
        x = x + self.dropout(self.out(mixed.flatten(-2)))
        rows = self.mlp_norm(x)
        return x + self.dropout(self.down(F.silu(self.gate(rows)) * self.up(rows)))


@register("DF", dropout=0.0)
class BlockHead(Head):
    """DF: layers of the target, fused, are keys and values of every layer; queries are the last token and masks.

    A block, the last known token and as many masks as are drafted, sees itself whole and the target's rows before it;
    at each mask stands the state predicted there. So a draft costs one pass, and what it says of a place depends on how
    many it was asked for: train it (`LossSettings.depths`) to draft as many as it will. As E3, it sees no
    rows of the prompt, which DFlash does, and tokens are looked up in the target's lm head.
    """

    inputs = ("target_layers", "token_states")

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        size = settings.hidden_size
        self.fc = nn.Linear(settings.num_source_layers * size, size, bias=False)
        self.context_norm, self.norm = (nn.RMSNorm(size, eps=settings.norm_eps) for _ in range(2))
        self.mask = nn.Parameter(0.5 * torch.randn(size))
        self.layers = nn.ModuleList(BlockLayer(settings) for _ in range(settings.num_layers))

    def context(self, rows: Float[Tensor, "batch time layers hidden"], first: int = 0) -> list[Kept]:
        """What each layer keeps of the target's rows, the first of which is number `first`."""
        fused = self.context_norm(self.fc(rows.flatten(-2)))
        places = torch.arange(first, first + fused.shape[1], device=fused.device)
        return [layer.keys(fused, places) for layer in self.layers]  # type: ignore[operator]

    def blocks(
        self, tokens: Float[Tensor, "batch time hidden"], first: int, depths: int, context: Sequence[Kept]
    ) -> Float[Tensor, "batch time depths hidden"]:
        """The states predicted behind tokens, the first of which stands in row `first`."""
        b, t, size = tokens.shape
        x = torch.cat([tokens[:, :, None], self.mask.expand(b, t, depths, size)], dim=2)
        rows = torch.arange(first, first + t, device=x.device)[:, None]
        places = 1 + rows + torch.arange(depths + 1, device=x.device)
        seen = torch.arange(context[0][0].shape[1], device=x.device) <= rows
        for layer, known in zip(self.layers, context, strict=True):
            x = layer(x, places, known, seen)
        return self.norm(x[:, :, 1:])

    def ahead(self, *given: Tensor, depths: int, before: Before | None = None) -> list[Tensor]:
        self.check_room(given[0].shape[1], depths)
        return list(self.blocks(given[1], 0, depths, self.context(given[0])).unbind(dim=2))


class BlockRun:
    """A `BlockHead` over one growing sequence, as `HeadRun`: each known row is read once, its keys and values kept.

    The numbers are those of `BlockHead.ahead` at the last row read.

    Attributes:
        length: known rows read.
        before: rows of the prompt: none.
    """

    before = 0

    def __init__(self, head: BlockHead):
        self.head, self.length = head, 0
        self._kept = [GrowingLayer() for _ in head.layers]  # keys and values [1, heads, length, width]

    def crop(self, length: int) -> None:
        """Forget the known rows from `length` on."""
        if length < self.length:
            for kept in self._kept:
                kept.crop(length - self.length)
            self.length = length

    def read(self, *given: Tensor, depths: int) -> Float[Tensor, "depths hidden"]:
        """Read more known rows, [k, ...] each as named by the head's `inputs`; the states predicted after the last.

        Raises:
            ValueError: more positions than the head was built for.
        """
        rows, tokens = given
        self.head.check_room(self.length + len(rows), depths)
        new = self.head.context(rows[None], self.length)
        known: list[Any] = [
            tuple(one.transpose(1, 2) for one in kept.update(*(one.transpose(1, 2) for one in both)))
            for kept, both in zip(self._kept, new, strict=True)
        ]
        self.length += len(rows)
        return self.head.blocks(tokens[None, -1:], self.length - 1, depths, known)[0, 0]
