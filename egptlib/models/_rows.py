"""Many sequences in one pass, each with as many new tokens as it likes, sharing the beginning of their scene.

Projections go over all new tokens of all rows, packed without padding. Attention goes scene by scene over one copy of
the beginning for all of its rows (Juravsky et al. 2024, Hydragen), and over what the rows hold behind it in one batched
product for all of them, padded to the longest row and to the most new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from egptlib.models._device import ids_on
from egptlib.models._lean import PACKS, KeyValues, LeanLlama, lean_pass
from egptlib.models._structure import GROWTH, is_llama

if TYPE_CHECKING:
    from egptlib.models._interface import Model
    from egptlib.models._state import State


class _Layer(NamedTuple):
    """A decoder layer's products: states to queries, keys and values in one; attended to states; states to states."""

    qkv: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]


class _Scene(NamedTuple):
    """Keys and values [key heads, P, d] of a beginning, by layer, and the numbers of the rows that share it."""

    prefix: list[tuple[Tensor, Tensor]]
    rows: list[int]


class _New(NamedTuple):
    """What is being read, N tokens, at most so many of each row.

    Attributes:
        positions: int64 [N], in the row's whole sequence.
        place, at: int64 [N], where the token's keys and values go.
        places: int64 [R], of the rows that read; None where all do.
        cells: int64 [N], where the tokens stand in [R * most]; None where they fill it.
        mask: [key heads * R, most * group, longest row], 0 where a token sees another, -inf elsewhere.
        sizes: N by scene.
    """

    positions: Tensor
    place: Tensor
    at: Tensor
    places: Tensor | None
    cells: Tensor | None
    mask: Tensor
    sizes: list[int]


class Rows:
    """Rows of several scenes, in the order of `rows`, scene by scene.

    Forgetting is setting a number; a row that left keeps its place until room is needed.

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
        self._held: dict[int, int] = {}  # by row, how many tokens it holds behind its scene's beginning
        self._places: dict[int, int] = {}  # by row, where in `_own`
        shape = (2, self._key_heads, 0, 0, self._width)
        self._own = [torch.empty(shape, dtype=model.dtype, device=model.device) for _ in self._layers]

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
        if state is None:
            nothing = self._own[0].new_empty(self._key_heads, 0, self._width)
            prefix = [(nothing, nothing)] * len(self._layers)
        elif isinstance(state.cache, KeyValues):
            prefix = [(keys, values) for keys, values in state.cache.buffer[..., : state.length, :]]
        else:
            prefix = [(layer.keys[0], layer.values[0]) for layer in state.cache.layers]
        self._scenes.append(_Scene(prefix, list(rows)))
        self._held |= dict.fromkeys(rows, 0)

    @torch.no_grad()
    def read(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Read new tokens of all rows in one pass.

        Args:
            x: embeddings [N, H] of the rows' tokens, one row after the other in the order of `rows`.
            counts: how many each row has; 0 is fine.

        Returns:
            [N, 1 + layers, H]: behind the final norm, and before it after the layers asked for.
        """
        new = self._take(counts)
        cos, sin = self._decoder.rotary_emb(x, new.positions[None])
        sin[..., : self._width // 2].neg_()
        cos, sin = cos[0, :, None], sin[0, :, None]  # [N, 1, d]
        both, count = self._heads + self._key_heads, len(x)
        filling = x.new_zeros((_rounded(count) if PACKS else count) - count, max(x.shape[1], self._heads * self._width))
        x, filling = torch.cat([x, filling[:, : x.shape[1]]]), filling[:, : self._heads * self._width]
        taken = {}
        for number, layer in enumerate(self._layers):
            states = layer.qkv(x)[:count].view(count, -1, self._width)  # [N, q + k + v, d]
            qk = states[:, :both]
            qk = torch.addcmul(qk * cos, qk.roll(self._width // 2, -1), sin)  # rolled: the halves change places
            q, k, v = qk[:, : self._heads] * self._scale, qk[:, self._heads :], states[:, both:]
            x = x + layer.out(torch.cat([self._attend(number, q, k, v, new), filling]))
            x = x + layer.mlp(x)
            if number + 1 in self.layers:
                taken[number + 1] = x[:count]
        return torch.stack([self._decoder.norm(x[:count]), *(taken[number] for number in self.layers)], dim=1)

    def forget(self, row: int, count: int) -> None:
        """Forget the last `count` tokens of a row."""
        self._held[row] -= count

    def drop(self, row: int) -> None:
        """Let a row leave."""
        scene = next(scene for scene in self._scenes if row in scene.rows)
        scene.rows.remove(row)
        del self._held[row]
        self._places.pop(row, None)
        self._scenes = [scene for scene in self._scenes if scene.rows]

    def _take(self, counts: Sequence[int]) -> _New:
        """Make room for so many tokens of each row, and say where they stand and what they see."""
        rows, device, group = self.rows, self.model.device, self._heads // self._key_heads
        longest = max(self._held[row] + count for row, count in zip(rows, counts, strict=True) if count)
        if not self._places.keys() >= set(rows) or longest > self._own[0].shape[3]:
            self._make_room(longest)
        # numpy: in small numbers its operations take a fifth of torch's time.
        each = np.array(counts, np.int64)
        begun = np.array([scene.prefix[0][0].shape[1] for scene in self._scenes for _ in scene.rows])
        sizes = np.add.reduceat(each, np.cumsum([0, *(len(scene.rows) for scene in self._scenes[:-1])])).tolist()
        reading = np.flatnonzero(each)  # the others' keys and values are left alone
        each = each[reading]
        held, places = (np.array([numbers[rows[i]] for i in reading]) for numbers in (self._held, self._places))
        nth = np.arange(each.sum()) - np.repeat(each.cumsum() - each, each)  # [N], which of its row's new tokens
        at, most = np.repeat(held, each) + nth, each.max()
        seen = np.arange(longest) <= (held[:, None] + np.arange(most))[..., None]  # [row, most, longest]
        mask = np.where(seen.repeat(group, axis=1), np.float32(0), np.float32(-np.inf))
        cells = np.repeat(np.arange(len(each)) * most, each) + nth
        self._held |= {rows[i]: int(count) for i, count in zip(reading, held + each, strict=True)}

        def there(numbers: np.ndarray) -> Tensor:
            return torch.from_numpy(numbers).to(device)

        return _New(
            there(np.repeat(begun[reading], each) + at),
            there(np.repeat(places, each)),
            there(at),
            None if len(places) == self._own[0].shape[2] else there(places),
            None if len(cells) == len(places) * most else there(cells),
            there(mask).to(self.model.dtype).repeat(self._key_heads, 1, 1),
            sizes,
        )

    def _make_room(self, longest: int) -> None:
        """Give every row a place, in order, for `longest` tokens and some more; those that left lose theirs."""
        rows, room = self.rows, self._own[0].shape[3]
        room = room if longest <= room else longest + min(longest, GROWTH)
        stay = ids_on(self.model.device, [self._places[row] for row in rows if row in self._places])
        for number, old in enumerate(self._own):  # one after the other: little is there twice
            own = self._own[number] = old.new_empty(2, self._key_heads, len(rows), room, self._width)
            own[:, :, : len(stay), : old.shape[3]] = old.index_select(2, stay)
            own[:, :, len(stay) :] = own[..., old.shape[3] :, :] = 0  # masked, but not by chance NaN
        self._places = {row: place for place, row in enumerate(rows)}

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, new: _New) -> Tensor:
        """Store k and v [N, key heads, d]; what q [N, heads, d], scaled, finds: [N, heads * d]."""
        (count, key_heads, width), longest = k.shape, new.mask.shape[2]
        own = self._own[layer]
        own[0][:, new.place, new.at], own[1][:, new.place, new.at] = k.transpose(0, 1), v.transpose(0, 1)
        own = own[..., :longest, :]
        keys, values = (own if new.places is None else own.index_select(2, new.places)).flatten(1, 2)
        q = q.view(count, key_heads, -1).transpose(0, 1).contiguous()  # [key head, N, group * d]
        scores = torch.baddbmm(new.mask, self._spread(q, new, width), keys.transpose(1, 2))
        scores = self._gather(scores, new)  # [key head, N, group * longest]
        found, weights = [], []
        parts = (each.split(new.sizes, dim=1) for each in (q, scores))
        for scene, queries, behind in zip(self._scenes, *parts, strict=True):
            if queries.shape[1]:
                prefix_keys, prefix_values = scene.prefix[layer]
                common = torch.bmm(queries.reshape(key_heads, -1, width), prefix_keys.transpose(1, 2))
                both = torch.cat([common, behind.reshape(key_heads, -1, longest)], dim=-1)
                both = both.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
                found.append(torch.bmm(both[..., : common.shape[-1]], prefix_values))
                weights.append(both[..., common.shape[-1] :])
        mixed = torch.cat(found, dim=1).view(key_heads, count, -1)
        spread = self._spread(torch.cat(weights, dim=1).view(key_heads, count, -1), new, longest)
        mixed = mixed + self._gather(torch.bmm(spread, values), new)
        return mixed.transpose(0, 1).reshape(count, -1)

    def _spread(self, x: Tensor, new: _New, width: int) -> Tensor:
        """[key head, N, group * width] to [key head * R, most * group, width], zeros where no token is."""
        if new.cells is not None:
            cells = new.mask.shape[0] * new.mask.shape[1] // self._heads
            x = x.new_zeros(len(x), cells, x.shape[2]).index_copy_(1, new.cells, x)
        return x.reshape(*new.mask.shape[:2], width)

    def _gather(self, x: Tensor, new: _New) -> Tensor:
        """The way back."""
        cells = new.mask.shape[0] * new.mask.shape[1] // self._heads
        x = x.view(self._key_heads, cells, -1)
        return x if new.cells is None else x.index_select(1, new.cells)


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
