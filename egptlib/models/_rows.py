"""Many sequences in one pass, each with as many new tokens as it likes, sharing the beginning of their scene.

Projections go over all new tokens of all rows, packed without padding. Attention goes scene by scene: over one copy of
the beginning for all of its rows (Juravsky et al. 2024, Hydragen), and over what they hold behind it, which stands side
by side in the order of reading, under a mask that shows a row its own. For the short ends that follow pictures, one
product over a scene's rows takes a third of the time of one for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from egptlib.models._lean import KeyValues, LeanLlama, lean_pass
from egptlib.models._structure import is_llama

NOBODY = -1

if TYPE_CHECKING:
    from egptlib.models._interface import Model
    from egptlib.models._state import State


class _Layer(NamedTuple):
    """A decoder layer's products: states to queries, keys and values in one; attended to states; states to states."""

    qkv: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]


class Rows:
    """Rows of several scenes, in the order of `rows`, scene by scene.

    What is forgotten keeps its place until room is needed.

    Args:
        model: its language model is a Llama. The lean pass's weights are used where it takes the model, the model's own
            layers, quantized or not, elsewhere.
        layers: numbers of decoder layers after which states are given besides the last ones.

    Raises:
        ValueError: another language model, or a layer that it does not have.
    """

    def __init__(self, model: Model, layers: Sequence[int] = ()):
        check_rows(model, layers)
        decoder: Any = model.language_model
        attention = decoder.layers[0].self_attn
        self.model, self.layers, self._decoder = model, tuple(layers), decoder
        self._width, self._scale = attention.head_dim, attention.scaling
        self._heads = decoder.config.num_attention_heads
        self._key_heads = decoder.config.num_key_value_heads
        lean = model._lean = lean_pass(decoder, model._lean)  # its copies of the weights are made once
        self._layers = [_own_layer(layer) for layer in decoder.layers] if lean is None else _fused_layers(lean)
        self._scenes: list[_Scene] = []

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that are there, in the order in which `read` takes their tokens."""
        return [row for scene in self._scenes for row in scene.rows]

    def add(self, state: State | None, rows: Sequence[int]) -> None:
        """Add a scene's rows.

        Args:
            state: where the scene's beginning has been read; its cache is used as it is, and must not change meanwhile.
                None: its rows begin with nothing.
            rows: numbers that the rows are to have.
        """
        shape = (len(self._layers), 2, self._key_heads, 0, self._width)
        own = torch.empty(shape, dtype=self.model.dtype, device=self.model.device)
        if state is None:
            prefix = [(own[0, 0], own[0, 0])] * len(self._layers)
        elif isinstance(state.cache, KeyValues):
            prefix = [(keys, values) for keys, values in state.cache.buffer[..., : state.length, :]]
        else:
            prefix = [(layer.keys[0], layer.values[0]) for layer in state.cache.layers]
        self._scenes.append(_Scene(prefix, own, list(rows)))

    @torch.no_grad()
    def read(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Read new tokens of all rows in one pass.

        Args:
            x: embeddings [N, H] of the rows' tokens, one row after the other in the order of `rows`.
            counts: how many each row has; 0 is fine.

        Returns:
            [N, 1 + layers, H]: behind the final norm, and before it after the layers asked for.
        """
        sizes, waiting = [], iter(counts)
        for scene in self._scenes:
            sizes.append(scene.take([next(waiting) for _ in scene.rows], self._heads // self._key_heads, x))
        cos, sin = self._decoder.rotary_emb(x, torch.cat([scene.positions for scene in self._scenes])[None])
        sin[..., : self._width // 2].neg_()
        cos, sin = cos[0, :, None], sin[0, :, None]  # [N, 1, d]
        both, count = self._heads + self._key_heads, len(x)
        filling = x.new_zeros(_rounded(count) - count, max(x.shape[1], self._heads * self._width))
        x, filling = torch.cat([x, filling[:, : x.shape[1]]]), filling[:, : self._heads * self._width]
        taken = {}
        for number, layer in enumerate(self._layers):
            states = layer.qkv(x)[:count].view(count, -1, self._width)  # [N, q + k + v, d]
            qk = states[:, :both]
            qk = torch.addcmul(qk * cos, qk.roll(self._width // 2, -1), sin)  # rolled: the halves change places
            q, k, v = qk[:, : self._heads] * self._scale, qk[:, self._heads :], states[:, both:]
            mixed = [
                scene.attend(number, *given)
                for scene, *given in zip(self._scenes, *(each.split(sizes) for each in (q, k, v)), strict=True)
                if len(given[0])
            ]
            x = x + layer.out(torch.cat([*mixed, filling]))
            x = x + layer.mlp(x)
            if number + 1 in self.layers:
                taken[number + 1] = x[:count]
        return torch.stack([self._decoder.norm(x[:count]), *(taken[number] for number in self.layers)], dim=1)

    def forget(self, row: int, count: int) -> None:
        """Forget the last `count` tokens of a row."""
        scene = self._find(row)
        scene.owners[np.flatnonzero(scene.owners == row)[-count:]] = NOBODY

    def drop(self, row: int) -> None:
        """Let a row leave."""
        scene = self._find(row)
        scene.owners[scene.owners == row] = NOBODY
        scene.rows.remove(row)
        if not scene.rows:
            self._scenes.remove(scene)

    def _find(self, row: int) -> _Scene:
        return next(scene for scene in self._scenes if row in scene.rows)


class _Scene:
    """The rows of one scene.

    Attributes:
        prefix: keys and values [key heads, P, d] of the beginning, by layer.
        own: those behind it, of all rows, [layers, 2, key heads, slot, d]; the first len(owners) slots are in use.
        owners: int64 [slot], the row whose token a slot holds, or NOBODY; a row's tokens stand in their order.
        rows: numbers of the rows.
        positions: int64 [n] of the tokens that are being read.
    """

    def __init__(self, prefix: list[tuple[Tensor, Tensor]], own: Tensor, rows: list[int]):
        self.prefix, self.own, self.rows = prefix, own, rows
        self.owners = np.empty(0, np.int64)
        self.positions = self._mask = torch.empty(0)

    def take(self, counts: Sequence[int], group: int, x: Tensor) -> int:
        """Make room for so many tokens of each row, and note what they see; how many they are together."""
        count = sum(counts)
        if len(self.owners) + count > self.own.shape[3]:
            kept = np.flatnonzero(self.owners != NOBODY)
            room = 3 * (len(kept) + count) // 2
            own = self.own.new_empty(*self.own.shape[:3], room, self.own.shape[4])
            own[..., : len(kept), :] = self.own[..., torch.from_numpy(kept).to(own.device), :]
            self.own, self.owners = own, self.owners[kept]
        # numpy: in small numbers its operations take a fifth of torch's time.
        new = np.repeat(np.array(self.rows, np.int64), counts)  # [n]
        self.owners = np.concatenate([self.owners, new])
        seen = self.owners == new[:, None]  # [n, slot]
        seen &= np.arange(len(self.owners)) <= np.arange(len(self.owners) - count, len(self.owners))[:, None]
        mask = np.where(np.tile(seen, (group, 1)), np.float32(0), np.float32(-np.inf))
        self._mask = torch.from_numpy(mask).to(x.device, x.dtype)
        self.positions = torch.from_numpy(self.prefix[0][0].shape[1] + seen.sum(1) - 1).to(x.device)
        return count

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v [n, key heads, d]; what q [n, heads, d], scaled, finds: [n, heads * d]."""
        n, key_heads, width = k.shape
        slots = len(self.owners)
        keys, values = self.own[layer][:, :, :slots]  # [key head, slot, d]
        keys[:, slots - n :], values[:, slots - n :] = k.transpose(0, 1), v.transpose(0, 1)
        prefix_keys, prefix_values = self.prefix[layer]
        q = (
            q.view(n, key_heads, -1, width).permute(1, 2, 0, 3).reshape(key_heads, -1, width)
        )  # [key head, group * n, d]
        common = torch.bmm(q, prefix_keys.transpose(1, 2))
        weights = torch.cat([common, torch.baddbmm(self._mask, q, keys.transpose(1, 2))], dim=-1)
        weights = weights.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        mixed = torch.bmm(weights[..., : common.shape[-1]], prefix_values)
        mixed = torch.baddbmm(mixed, weights[..., common.shape[-1] :], values)
        return mixed.view(key_heads, -1, n, width).permute(2, 0, 1, 3).reshape(n, -1)


def check_rows(model: Model, layers: Sequence[int] = ()) -> None:
    """Raises ValueError for a model that `Rows` does not take."""
    if not is_llama(model.language_model):
        raise ValueError(
            f"{model.name}: expected a plain Llama language model, found {type(model.language_model).__name__}"
        )
    model.check_layers(layers)


def _rounded(count: int) -> int:
    """A few tokens more: oneDNN makes code for every number that it meets, which takes 3 ms and keeps 2 MB each."""
    step = 1 << max(0, count.bit_length() - 4)
    return -(-count // step) * step


def _fused_layers(lean: LeanLlama) -> list[_Layer]:
    def layer(norm: Tensor, qkv: Any, out: Any, mlp_norm: Tensor, gate_up: Any, down: Any) -> _Layer:
        def mlp(x: Tensor) -> Tensor:
            gate, up = gate_up(F.rms_norm(x, (lean.hidden,), mlp_norm, lean.eps)).chunk(2, dim=-1)
            return down(F.silu(gate).mul_(up))

        return _Layer(lambda x: qkv(F.rms_norm(x, (lean.hidden,), norm, lean.eps)), out, mlp)

    return [layer(*parts) for parts in lean.layers]


def _own_layer(layer: Any) -> _Layer:
    def qkv(x: Tensor) -> Tensor:
        x, attention = layer.input_layernorm(x), layer.self_attn
        return torch.cat([attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)], dim=-1)

    return _Layer(qkv, layer.self_attn.o_proj, lambda x: layer.mlp(layer.post_attention_layernorm(x)))
