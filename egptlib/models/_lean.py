"""A Llama's forward pass without the general machinery around it, for one sequence at a time.

The same numbers as transformers' `LlamaModel` up to rounding. What it leaves out: masks for single tokens, caches that
grow by concatenation, separate products for q, k, v and for gate and up. A decoding step of a small model on a CPU
is mostly such overhead. Quantized and unusual models keep transformers' own pass (`lean_pass` gives None).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egptlib.models._structure import GROWTH, is_llama
from egptlib.models._trees import tree_depths, tree_mask

COPY_LIMIT = 2**30  # bytes of weights up to which fused copies are made; larger models keep their own alone
PACKED_FOR = 256  # tokens that oneDNN's packed weights are laid out for; with few tokens no other layout was faster
# With AVX-512 oneDNN is the fastest at any number of tokens. With AVX2 alone plain products are: 2 times at one token,
# 1.1 times at hundreds; and there it packs no bfloat16.
PACKS = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
SHORT = 64  # up to as many tokens at once, plain products beat the fused attention kernel with a mask


class KeyValues:
    """Keys and values of one sequence in preallocated buffers; forgetting is setting a number.

    Attributes:
        buffer: [layers, 2, key heads, capacity, d].
        length: positions in use.
    """

    def __init__(self, layers: int, heads: int, width: int, capacity: int, dtype: torch.dtype, device: torch.device):
        self.buffer = torch.empty(layers, 2, heads, capacity, width, dtype=dtype, device=device)
        self.length = 0

    def get_seq_length(self) -> int:
        return self.length

    def crop(self, count: int) -> None:
        """Forget the last -count positions (transformers' convention: the number to remove, negative)."""
        self.length += count

    def reserve(self, length: int) -> None:
        """Make room for `length` positions, and for some more when the buffer has to grow."""
        if length > self.buffer.shape[3]:
            grown = self.buffer.new_empty(*self.buffer.shape[:3], length + GROWTH, self.buffer.shape[4])
            grown[..., : self.length, :] = self.buffer[..., : self.length, :]
            self.buffer = grown


class Projection:
    """Several linear layers without bias over one input as one product: [n, in] to [n, sum of outs]."""

    def __init__(self, parts: list[nn.Linear], copy: bool):
        self.parts = parts
        self.weight = self.packed = None
        if len(parts) == 1:
            self.weight = parts[0].weight.detach()
        elif copy:
            self.weight = torch.cat([part.weight.detach() for part in parts])
        if copy and parts[0].weight.device.type == "cpu" and PACKS:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, PACKED_FOR)
            self.weight = None  # no number of tokens is faster with it

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        if self.weight is not None:
            return F.linear(x, self.weight)
        return torch.cat([F.linear(x, part.weight) for part in self.parts], dim=-1)


class LeanLayer(NamedTuple):
    """What a decoder layer does, in its order: two norms' weights, and the products."""

    norm: Tensor
    qkv: Projection
    out: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection


class LeanLlama:
    """The pass from embeddings to last hidden states; see `lean_pass` for which models it takes."""

    def __init__(self, model: Any):
        config = model.config
        self.model = model
        self.eps, self.hidden = config.rms_norm_eps, config.hidden_size
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = model.layers[0].self_attn.head_dim
        self.scale = self.width**-0.5
        self.versions = weight_versions(model)
        copy = sum(p.nbytes for p in model.layers.parameters()) <= COPY_LIMIT
        self.layers = [
            LeanLayer(
                layer.input_layernorm.weight.detach(),
                Projection([layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj], copy),
                Projection([layer.self_attn.o_proj], copy),
                layer.post_attention_layernorm.weight.detach(),
                Projection([layer.mlp.gate_proj, layer.mlp.up_proj], copy),
                Projection([layer.mlp.down_proj], copy),
            )
            for layer in model.layers
        ]
        self.norm = model.norm.weight.detach()
        self._cos = self._sin = torch.empty(0)
        self._band = torch.empty(SHORT, SHORT - 1)  # no reach yet

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: packed weights cannot travel, and are packed again there."""
        return LeanLlama, (self.model,)

    def cache(self, capacity: int) -> KeyValues:
        weight = self.norm
        return KeyValues(len(self.layers), self.key_heads, self.width, capacity, weight.dtype, weight.device)

    def __call__(
        self,
        embeds: Tensor,
        cache: KeyValues,
        taken: dict[int, Tensor] | None = None,
        last: bool = False,
        tree: Sequence[int] = (),
    ) -> Tensor:
        """Read n embeddings [n, H] after what the cache holds; last hidden states [n, H], final norm included.

        Args:
            taken: gets, for each number of layers that is a key of it, the states [n, H] after so many.
            last: the last token alone is asked for, [1, H] here and in `taken`: the last layer's work for the others
                ends with their keys and values.
            tree: parents of the nodes at the cache's end and of the n read now, where they are a tree's (`Model.read`).
        """
        x, past, n = embeds, cache.length, len(embeds)
        cache.reserve(past + n)
        if tree:
            before = past + n - len(tree)
            cos, sin = (each[before:][tree_depths(tree)[-n:]] for each in self._rotation(0, past + n))
            mask = tree_mask(before, tree, n).to(self.norm)
        else:
            cos, sin = self._rotation(past, past + n)
            mask = None
        blocks = self._blocks(past, n, mask)
        both = self.heads + self.key_heads
        taken = taken or {}
        for number, (norm, qkv, out, mlp_norm, gate_up, down), store in zip(
            range(1, len(self.layers) + 1), self.layers, cache.buffer, strict=True
        ):
            states = qkv(F.rms_norm(x, (self.hidden,), norm, self.eps)).view(n, -1, self.width)  # [n, q + k + v, d]
            qk = states[:, :both]
            qk = torch.addcmul(qk * cos, qk.roll(self.width // 2, -1), sin)  # rolled: the halves change places
            store[0, :, past : past + n] = qk[:, self.heads :].transpose(0, 1)
            store[1, :, past : past + n] = states[:, both:].transpose(0, 1)
            if last and number == len(self.layers):
                x, qk, blocks = x[-1:], qk[-1:], [(slice(0, n), None)]
            q = qk[:, : self.heads].transpose(0, 1)  # [heads, n, d]
            k, v = store[0, :, : past + n], store[1, :, : past + n]
            parts = [
                self._attend(q[:, rows], k[:, : past + rows.stop], v[:, : past + rows.stop], mask)
                for rows, mask in blocks
            ]
            attended = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            x = x + out(attended.transpose(0, 1).reshape(len(x), -1))
            gate, up = gate_up(F.rms_norm(x, (self.hidden,), mlp_norm, self.eps)).chunk(2, dim=-1)
            x = x + down(F.silu(gate).mul_(up))
            if number in taken:
                taken[number] = x[-1:] if last else x
        cache.length += n
        return F.rms_norm(x, (self.hidden,), self.norm, self.eps)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of q [heads, n, d] over keys and values [key heads, T, d]: [heads, n, d]."""
        n = q.shape[1]
        queries = q.reshape(len(k), -1, self.width)  # those of one key head side by side: its keys need no copies
        if mask is None or n > SHORT:
            given = (queries[None], k[None], v[None])
            attended = F.scaled_dot_product_attention(
                *given, attn_mask=mask, is_causal=mask is None and n > 1, scale=self.scale
            )[0]
        else:
            scores = torch.baddbmm(mask, queries, k.transpose(1, 2), alpha=self.scale)
            attended = torch.bmm(scores.softmax(dim=-1), v)
        return attended.view(q.shape)

    def _blocks(self, past: int, n: int, tree: Tensor | None) -> list[tuple[slice, Tensor | None]]:
        """The rows of n tokens that attend together, as slices, each with its mask.

        A mask [group * rows, positions up to the last row] is 0 where a row sees a position and -inf where not; None is
        for one token, which sees all, and for a prompt that the fused kernel takes as causal. In float32 on a CPU
        short blocks beat that kernel; elsewhere it rounds better or is faster. A tree brings its own, [n, past + n].
        """
        if n == 1 and tree is None:
            return [(slice(0, 1), None)]
        group = self.heads // self.key_heads
        if tree is not None:
            return [(slice(0, n), tree.repeat(group, 1))]
        if n > SHORT and (self.norm.dtype != torch.float32 or self.norm.device.type != "cpu"):
            mask = self.norm.new_full((n, past + n), -torch.inf).triu(past + 1).repeat(group, 1)
            return [(slice(0, n), None if past == 0 and group == 1 else mask)]
        reach = self._band.shape[1] - SHORT
        if reach < past + n:
            reach = 2 * (past + n)
            self._band = self.norm.new_full((SHORT, reach + SHORT), -torch.inf).triu(reach + 1)
        blocks: list[tuple[slice, Tensor | None]] = []
        for first in range(0, n, SHORT):
            # Row i of the band is open up to column reach + i; the slice starts so that row 0 is open up to itself.
            count, before = min(SHORT, n - first), past + first
            mask = self._band[:count, reach - before : reach + count]
            blocks.append((slice(first, first + count), mask if group == 1 else mask.repeat(group, 1)))
        return blocks

    def _rotation(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Rotary cosines and sines [n, 1, d] of positions; the first half of the sines negated, see the caller."""
        if len(self._cos) < end:
            positions = torch.arange(2 * end, device=self.norm.device)[None]
            cos, sin = self.model.rotary_emb(self.norm, positions)  # [1, 2 end, d]
            sign = torch.ones_like(sin[0, 0])
            sign[: self.width // 2] = -1
            self._cos, self._sin = cos[0, :, None], (sin[0] * sign)[:, None]
        return self._cos[start:end], self._sin[start:end]


def lean_pass(model: nn.Module, before: LeanLlama | None = None) -> LeanLlama | None:
    """The lean pass of a language model, or None where it has to keep its own.

    Taken are Llamas (`is_llama`) in float32 or bfloat16 on one device, not quantized or adapted, without biases.
    `before` is given back where its weights are still those of the model.
    """
    if not is_llama(model):
        return None
    if before is not None and before.model is model and before.versions == weight_versions(model):
        return before
    linears = [
        projection
        for layer in model.layers  # type: ignore[union-attr]
        for projection in (*layer.self_attn.children(), layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
    ]
    kinds = {(p.dtype, p.device) for p in model.parameters()}
    usual = (
        all(type(module) is nn.Linear and module.bias is None for module in linears)
        and len(kinds) == 1
        and next(iter(kinds))[0] in (torch.float32, torch.bfloat16)
        and model.config.hidden_act == "silu"  # type: ignore[union-attr]
    )
    return LeanLlama(model) if usual else None


def weight_versions(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """Changes when weights are replaced or written to, so that fused copies are made anew."""
    return tuple((p.data_ptr(), p._version) for p in model.parameters())
