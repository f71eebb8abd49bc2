"""Many sequences in one pass, each with as many new tokens as it likes, sharing the beginning of their scene.

Projections go over all new tokens of all rows, packed without padding. Attention goes over one copy of a scene's
beginning for all of its rows (Juravsky et al. 2024, Hydragen), and over each row's own keys and values behind it.
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

    Forgetting is setting a number, and a row that leaves makes room for the last of its scene.

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

    def add(self, state: State | None, rows: Sequence[int], capacity: int) -> None:
        """Add a scene's rows.

        Args:
            state: where the scene's beginning has been read; its cache is used as it is, and must not change meanwhile.
                None: its rows begin with nothing.
            rows: numbers that the rows are to have.
            capacity: tokens that one of them will hold behind the beginning; there is more room where it is needed.
        """
        shape = (len(self._layers), 2, len(rows), self._key_heads, capacity, self._width)
        # Zeros: what is not written yet has weight 0, which must not meet a NaN.
        own = torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)
        if state is None:
            empty = own[0, 0, 0, :, :0]
            prefix = [(empty, empty)] * len(self._layers)
        elif isinstance(state.cache, KeyValues):
            prefix = [(keys, values) for keys, values in state.cache.buffer[..., : state.length, :]]
        else:
            prefix = [(layer.keys[0], layer.values[0]) for layer in state.cache.layers]
        self._scenes.append(_Scene(prefix, own, list(rows), [0] * len(rows)))

    @torch.no_grad()
    def read(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Read new tokens of all rows in one pass.

        Args:
            x: embeddings [N, H] of the rows' tokens, one row after the other in the order of `rows`.
            counts: how many each row has; 0 is fine.

        Returns:
            [N, 1 + layers, H]: behind the final norm, and before it after the layers asked for.
        """
        parts, waiting = [], iter(counts)
        for scene in self._scenes:
            own = [next(waiting) for _ in scene.rows]
            if any(own):
                parts.append(_Part(scene, own, self._heads, x))
        cos, sin = self._decoder.rotary_emb(x, torch.cat([part.positions for part in parts])[None])
        sin[..., : self._width // 2].neg_()
        cos, sin = cos[0, :, None], sin[0, :, None]  # [N, 1, d]
        sizes, both = [part.size for part in parts], self._heads + self._key_heads
        taken = []
        for number, layer in enumerate(self._layers):
            states = layer.qkv(x).view(len(x), -1, self._width)  # [N, q + k + v, d]
            qk = states[:, :both]
            qk = torch.addcmul(qk * cos, qk.roll(self._width // 2, -1), sin)  # rolled: the halves change places
            q, kv = qk[:, : self._heads] * self._scale, (qk[:, self._heads :], states[:, both:])
            mixed = [
                part.attend(number, *given)
                for part, *given in zip(parts, q.split(sizes), *(each.split(sizes) for each in kv), strict=True)
            ]
            x = x + layer.out(mixed[0] if len(mixed) == 1 else torch.cat(mixed))
            x = x + layer.mlp(x)
            if number + 1 in self.layers:
                taken.append((number + 1, x))
        for scene, own in ((part.scene, part.counts) for part in parts):
            scene.lengths = [length + count for length, count in zip(scene.lengths, own, strict=True)]
        by_number = dict(taken)
        return torch.stack([self._decoder.norm(x), *(by_number[number] for number in self.layers)], dim=1)

    def forget(self, row: int, count: int) -> None:
        """Forget the last `count` tokens of a row."""
        scene, place = self._find(row)
        scene.lengths[place] -= count

    def drop(self, row: int) -> None:
        """Let a row leave."""
        scene, place = self._find(row)
        last = len(scene.rows) - 1
        if place < last:
            scene.own[:, :, place] = scene.own[:, :, last]
            scene.rows[place], scene.lengths[place] = scene.rows[last], scene.lengths[last]
        del scene.rows[last], scene.lengths[last]

    def _find(self, row: int) -> tuple[_Scene, int]:
        return next((scene, scene.rows.index(row)) for scene in self._scenes if row in scene.rows)


class _Scene:
    """The rows of one scene.

    Attributes:
        prefix: keys and values [key heads, P, d] of the beginning, by layer.
        own: those behind it, [layers, 2, row, key heads, slot, d].
        rows: numbers of the rows, which are the first ones of `own`.
        lengths: slots in use, by row.
    """

    def __init__(self, prefix: list[tuple[Tensor, Tensor]], own: Tensor, rows: list[int], lengths: list[int]):
        self.prefix, self.own, self.rows, self.lengths = prefix, own, rows, lengths


class _Part:
    """One scene's share of a pass: where its tokens go, and what they see."""

    def __init__(self, scene: _Scene, counts: list[int], heads: int, x: Tensor):
        self.scene, self.counts, self.size, self._most = scene, counts, sum(counts), max(counts)
        key_heads, capacity, self._width = scene.own.shape[3:]
        self._shape = (len(counts), self._most, key_heads, heads // key_heads, self._width)  # [row, t, k, group, d]
        self._slots = max(length + count for length, count in zip(scene.lengths, counts, strict=True))
        if self._slots > capacity:
            scene.own = F.pad(scene.own, (0, 0, 0, 2 * self._slots - capacity))
            capacity = 2 * self._slots
        # numpy: in small numbers its operations take a fifth of torch's time.
        real = np.arange(self._most) < np.array(counts)[:, None]  # [row, t]
        own_slots = np.array(scene.lengths)[:, None] + np.arange(self._most)
        rows_of, slots = real.nonzero()[0], own_slots[real]
        at = (rows_of[:, None] * key_heads + np.arange(key_heads)) * capacity + slots[:, None]
        seen = np.arange(self._slots) <= own_slots[..., None]  # [row, t, slot]
        mask = np.where(seen, np.float32(0), np.float32(-np.inf))[:, None, None]

        def moved(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(x.device)

        self.positions = moved(scene.prefix[0][0].shape[1] + slots)
        self._at = moved(at.ravel())  # where keys and values go: [size * key heads] of [row, head, slot]
        self._padded = self._packed = None
        if min(counts) < self._most:
            self._padded = moved((real.ravel().cumsum() - 1).clip(0))  # padding repeats a token
            self._packed = moved(real.ravel().nonzero()[0])
        every = (len(counts), key_heads, heads // key_heads, *seen.shape[1:])
        self._mask = moved(mask).to(x.dtype).expand(every).reshape(-1, every[2] * self._most, self._slots)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v [size, key heads, d]; what q [size, heads, d], scaled, finds: [size, heads * d]."""
        num, most, key_heads, group, width = self._shape
        own = self.scene.own[layer]
        for store, new in zip(own, (k, v), strict=True):
            store.view(-1, width).index_copy_(0, self._at, new.reshape(-1, width))
        keys, values = own[:, :num].flatten(1, 2)[:, :, : self._slots]  # [row * key head, slot, d]
        prefix_keys, prefix_values = self.scene.prefix[layer]
        if self._padded is not None:
            q = q[self._padded]
        q = q.view(self._shape).permute(2, 0, 3, 1, 4)  # [key head, row, group, t, d]
        by_scene = q.reshape(key_heads, -1, width)
        by_row = q.transpose(0, 1).reshape(num * key_heads, -1, width)
        common = torch.bmm(by_scene, prefix_keys.transpose(1, 2)).view(key_heads, num, group * most, -1)
        alone = torch.baddbmm(self._mask, by_row, keys.transpose(1, 2)).view(num, key_heads, group * most, -1)
        scores = torch.cat([common, alone.transpose(0, 1)], dim=-1)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        length = common.shape[-1]
        mixed = torch.bmm(weights[..., :length].flatten(1, 2), prefix_values).view(key_heads, num, group, most, width)
        own_weights = weights[..., length:].transpose(0, 1).reshape(num * key_heads, group * most, -1)
        alone = torch.bmm(own_weights, values).view(num, key_heads, group, most, width)
        mixed = (mixed + alone.transpose(0, 1)).permute(1, 3, 0, 2, 4).reshape(num * most, -1)
        return mixed if self._packed is None else mixed[self._packed]


def check_rows(model: Model, layers: Sequence[int] = ()) -> None:
    """Raises ValueError for a model that `Rows` does not take."""
    if not is_llama(model.language_model):
        raise ValueError(
            f"{model.name}: expected a plain Llama language model, found {type(model.language_model).__name__}"
        )
    model.check_layers(layers)


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
