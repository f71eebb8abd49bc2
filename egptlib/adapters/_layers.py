"""The parts adapters are built of: bottlenecks, and an attention layer that can also run ahead of its input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Dropout(nn.Module):
    """`nn.Dropout`, of which torch's own on the CPU took a quarter of L1's training.

    Each random word of 64 bits decides four values; the rate is rounded to a multiple of 2**-16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = round(self.p * 2**16)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class Bottleneck(nn.Module):
    """x + s Up(GELU(Down(LN(x)))), without biases (Houlsby et al. 2019). s is applied where rows are narrow."""

    def __init__(self, size: int, inner: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.down = nn.Linear(size, inner, bias=False)
        self.up = nn.Linear(inner, size, bias=False)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time hidden"]:
        if torch.is_grad_enabled() and not x.requires_grad:
            # The norm's weights are taken into the matrix: with no gradient wanted for x, the widest product of the
            # backward pass falls away.
            norm, matrix = self.norm, self.down.weight
            rows = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
            inner = F.linear(rows, matrix * norm.weight, matrix @ norm.bias)
        else:
            inner = self.down(self.norm(x))
        return x + self.dropout(self.up(self.scale * F.gelu(inner)))


class WideBottleneck(nn.Module):
    """x + s Up(GELU(LN(Down(x)))): the norm sits inside, where it is wide."""

    def __init__(self, size: int, inner: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(size, inner, bias=False)
        self.norm = nn.LayerNorm(inner)
        self.up = nn.Linear(inner, size, bias=False)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time hidden"]:
        return x + self.up(self.scale * self.dropout(F.gelu(self.norm(self.down(x)))))


Cache = list[tuple[Tensor, Tensor]]
"""Keys and values [b, heads, t, e] of one layer, one entry for each depth it has run so far."""


class Before(NamedTuple):
    """What stands before the rows that a layer reads: the rows of a prompt.

    Attributes:
        keys, values: [b, heads, P, e], of positions 0 to P - 1.
        valid: bool [b, P]; padding lies on the left, so that all prompts end where the rows begin.
    """

    keys: Tensor
    values: Tensor
    valid: Tensor


class AttentionLayer(nn.Module, ABC):
    """A pre-norm transformer layer that can also run ahead of its input.

    Attributes:
        causal: whether a row sees only those before it, and itself.
        dropout: what its attention drops in training, too.
    """

    causal: bool
    dropout: Dropout

    @abstractmethod
    def heads(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [b, heads, t, e] of rows [b, t, in] that stand at positions `places`, int64 [t]."""

    @abstractmethod
    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """All behind the attention: rows [b, t, hidden] from what came in [b, t, in] and what it saw [b, t, hidden]."""

    def forward(
        self,
        x: Float[Tensor, "batch time input"],
        mask: Bool[Tensor, "batch time"] | None = None,
        cache: Cache | None = None,
        before: Before | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """Read a row of positions; with `cache`, go one depth further instead (see `_attend_ahead`).

        Args:
            x: the input. Padding lies on the right.
            mask: true at valid positions; matters only to a layer that is not causal.
            cache: empty before the first call; each call appends its keys and values.
            before: what all rows see as well, of a causal layer.
        """
        past = 0 if before is None else before.keys.shape[2]
        first = past + len(cache or ())  # at depth d, row t stands at position t + d
        q, k, v = self.heads(x, torch.arange(first, first + x.shape[1], device=x.device))
        rate = self.dropout.p if self.training else 0.0
        if cache is not None:
            cache.append((k, v))
        if cache is not None and len(cache) > 1:
            attended = _attend_ahead(q, cache, before)
        elif before is not None:
            seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril().expand(len(x), -1, -1)
            seen = torch.cat([before.valid[:, None].expand(-1, x.shape[1], -1), seen], dim=-1)[:, None]
            k, v = torch.cat([before.keys, k], dim=2), torch.cat([before.values, v], dim=2)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=rate)
        elif self.causal:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        else:
            keys = None if mask is None else mask[:, None, None, :]
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=rate)
        return self.finish(x, attended.transpose(1, 2).flatten(-2))


class Layer(AttentionLayer):
    """Attention, then a feed-forward part with GELU. Positions are whoever's who calls it."""

    def __init__(self, size: int, num_heads: int, ffn_dim: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.ffn_norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, ffn_dim)
        self.down = nn.Linear(ffn_dim, size)
        self.dropout = Dropout(dropout)
        self.num_heads, self.causal = num_heads, causal

    def heads(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attn_norm(x)).chunk(3, dim=-1)
        )
        return q, k, v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(self.out(attended))
        return x + self.dropout(self.down(self.dropout(F.gelu(self.up(self.ffn_norm(x))))))


def moved(rows: Tensor, offset: int, fill: Any = 0) -> Tensor:
    """Row t + offset in place t of rows [b, t, ...]; `fill` where there is none."""
    if offset == 0:
        return rows
    out = torch.full_like(rows, fill)
    out[:, : max(0, rows.shape[1] - offset)] = rows[:, offset:]
    return out


def rotation(places: Tensor, width: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [t, width] of rotary positions (Su et al. 2021), both halves alike, as Llama has them."""
    rates = theta ** -(torch.arange(0, width, 2, device=places.device) / width)
    angles = torch.outer(places.float(), rates).repeat(1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys [..., width] turned to their positions."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


def _attend_ahead(q: Tensor, cache: Cache, before: Before | None = None) -> Tensor:
    """Attention of depth d for all anchors at once (training-time test, Li et al. 2025, EAGLE-3, figure 6).

    The query in place i stands d positions after the anchor i. It sees the true positions up to i (depth 0,
    causal), and of each later depth only the place i itself: the predictions that were made from that anchor.

    Args:
        q: [b, heads, t, e] of the present depth.
        cache: keys and values of depths 0 to d, the present one last.
        before: seen from every anchor.
    """
    t, scale = q.shape[2], q.shape[3] ** -0.5
    causal = torch.ones(t, t, dtype=torch.bool, device=q.device).tril()
    first = (q @ cache[0][0].mT * scale).masked_fill(~causal, float("-inf"))  # [b, heads, t, t]
    own = torch.stack([(q * k).sum(dim=-1) * scale for k, _ in cache[1:]], dim=-1)  # [b, heads, t, d]
    scores = [first, own]
    if before is not None:
        scores.append((q @ before.keys.mT * scale).masked_fill(~before.valid[:, None, None], float("-inf")))
    weights = torch.cat(scores, dim=-1).softmax(dim=-1)
    out = weights[..., :t] @ cache[0][1]
    if before is not None:
        out = out + weights[..., -before.keys.shape[2] :] @ before.values
    for depth, (_, v) in enumerate(cache[1:]):
        out = out + weights[..., t + depth, None] * v
    return out
