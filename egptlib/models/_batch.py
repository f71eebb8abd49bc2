"""Many questions about a few scenes in one pass: what is common to a scene's prompts is read and kept once.

The prompts of a scene differ only after its pictures, by far their longest part. Their common beginning is read once,
and attention of all its questions goes over that one copy (Juravsky et al. 2024, Hydragen), so ten questions need the
memory of one. What follows is padded on the right and masked. The pass calls the model's own layers, quantized or not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from egptlib.models._structure import is_llama

if TYPE_CHECKING:
    from egptlib.models import Model, Prompt
    from egptlib.models._rules import Rules


@dataclass(frozen=True)
class Reading:
    """What one model has in mind along one answer.

    Attributes:
        token_ids: int64 [n] on the CPU.
        hidden: [n, H] on the CPU, behind the final norm; row t predicts token t.
        layers: [n, layers, H] on the CPU, before the final norm; None where no layers were asked for.
        rules: what the checkpoint's generation_config.json does to logits after the prompt; mostly None.
    """

    token_ids: Tensor
    hidden: Tensor
    layers: Tensor | None
    rules: Rules | None = None


@dataclass
class Prompts:
    """Prompts in S scenes of Q questions each, split where the questions of a scene begin to differ.

    Attributes:
        prefix: embeddings [S, P, H] of the common beginnings, padded on the right.
        prefix_lengths: int64 [S].
        suffix: embeddings of the rest, one [length, H] for each of the S * Q rows.
    """

    prefix: Tensor
    prefix_lengths: Tensor
    suffix: list[Tensor]

    @classmethod
    def of(cls, scenes: Sequence[Sequence[Tensor]]) -> Prompts:
        """From the embeddings [T, H] of each question of each scene, equally many questions a scene."""
        lengths, suffix = [], []
        for prompts in scenes:
            first, shortest = prompts[0], min(map(len, prompts))
            same = torch.stack([(p[:shortest] == first[:shortest]).all(-1) for p in prompts]).all(0)
            # At least one token stays behind the common part: its state predicts the first token of the answer.
            length = min(int(same.cumprod(0).sum()), shortest - 1)
            lengths.append(length)
            suffix += [p[length:] for p in prompts]
        prefix = pad_sequence([s[0][:n] for s, n in zip(scenes, lengths)], batch_first=True)
        return cls(prefix, torch.tensor(lengths, device=prefix.device), suffix)


@dataclass
class _Own:
    """Keys and values behind the prefix, one [row, head, slot, d] per layer, and which slots hold something."""

    keys: list[Tensor]
    values: list[Tensor]
    valid: Tensor  # bool [row, slot]


class BatchReader:
    """Reads and answers batches of prompts with one model.

    Args:
        model: its language model is a Llama (`_structure.is_llama`), as both models of the pair have.
        layers: numbers of decoder layers after which states are kept besides the last ones.

    Raises:
        ValueError: another language model.
    """

    def __init__(self, model: Model, layers: Sequence[int] = ()) -> None:
        decoder: Any = model.language_model
        if not is_llama(decoder):
            raise ValueError(f"{model.name}: expected a plain Llama language model, found {type(decoder).__name__}")
        self.model, self.layers, self._decoder = model, tuple(layers), decoder

    def prompts(self, scenes: Sequence[Sequence[Prompt]]) -> Prompts:
        """What `answer` and `read` take, from the prompts of each scene, equally many a scene."""
        return Prompts.of([[prompt.embeds[0] for prompt in prompts] for prompts in scenes])

    @torch.no_grad()
    def answer(self, prompts: Prompts, max_new_tokens: int) -> list[Reading]:
        """The greedy answer to each prompt, its end token included; every row stops at its own.

        States go straight into one CPU buffer (pinned, beside a GPU), step by step.
        """
        num_rows, device = len(prompts.suffix), self.model.device
        width = prompts.prefix.shape[-1]
        kept = torch.empty(
            (max_new_tokens, num_rows, 1 + len(self.layers), width),
            dtype=self.model.dtype,
            pin_memory=device.type == "cuda",
        )
        ids = torch.zeros((max_new_tokens, num_rows), dtype=torch.long)
        lengths = [0] * num_rows
        prefix = self._read_prefix(prompts)
        prefix_lengths = prompts.prefix_lengths
        num_scenes = len(prefix_lengths)
        rows = torch.arange(num_rows).view(num_scenes, -1)  # which prompt each row is
        suffix_lengths = torch.tensor([len(s) for s in prompts.suffix], device=device)
        suffix = pad_sequence(prompts.suffix, batch_first=True)
        own = self._empty(num_rows, suffix.shape[1] + max_new_tokens, suffix_lengths)
        next_positions = prefix_lengths.repeat_interleave(rows.shape[1]) + suffix_lengths
        states = self._pass(suffix, self._positions(prompts, suffix.shape[1]), prefix, prefix_lengths, own, 0)
        states = states[torch.arange(num_rows, device=device), suffix_lengths - 1]  # [row, 1 + layers, H]
        alive = torch.ones(num_rows, dtype=torch.bool)
        for step in range(max_new_tokens):
            tokens = self.model.lm_head(states[:, 0]).argmax(dim=-1)
            here = rows.flatten()
            kept[step, : len(here)].copy_(states, non_blocking=True)
            ids[step, here] = tokens.cpu()
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
            if len(here) < num_rows or not torch.equal(here, torch.arange(num_rows)):
                kept[step, here] = kept[step, : len(here)].clone()
            ended = torch.isin(ids[step], torch.tensor(sorted(self.model.eos_token_ids)))
            for row in here[alive[here]].tolist():
                lengths[row] = step + 1
            alive &= ~ended
            if step + 1 == max_new_tokens or not alive.any():
                break
            # Scenes and questions that are through are left out, once that makes the batch a quarter smaller.
            grid = alive[rows]
            scenes, questions = grid.any(1), grid.any(0)
            if int(scenes.sum() * questions.sum()) <= 0.75 * rows.numel():
                keep = (scenes[:, None] & questions[None, :]).flatten().nonzero()[:, 0].to(device)
                own = _Own([k[keep] for k in own.keys], [v[keep] for v in own.values], own.valid[keep])
                tokens, next_positions = tokens[keep], next_positions[keep]
                on = scenes.nonzero()[:, 0].to(device)
                prefix, prefix_lengths = [(k[on], v[on]) for k, v in prefix], prefix_lengths[on]
                rows = rows[scenes][:, questions]
            embeds = self.model.token_embedding(tokens[:, None]).to(suffix.dtype)
            slot = suffix.shape[1] + step
            own.valid[:, slot] = True
            states = self._pass(embeds, next_positions[:, None], prefix, prefix_lengths, own, slot)[:, 0]
            next_positions = next_positions + 1
        return [self._reading(ids[:n, row], kept[:n, row].clone()) for row, n in enumerate(lengths)]

    @torch.no_grad()
    def read(self, prompts: Prompts, answers: Sequence[Tensor]) -> list[Reading]:
        """Read given answers, one token list per row, in one pass (teacher forcing)."""
        device = self.model.device
        tails = [
            torch.cat([suffix, self.model.token_embedding(ids[:-1].to(device)).to(suffix.dtype)])
            for suffix, ids in zip(prompts.suffix, answers, strict=True)
        ]
        x = pad_sequence(tails, batch_first=True)
        own = self._empty(len(tails), x.shape[1], torch.tensor([len(t) for t in tails], device=device))
        positions = self._positions(prompts, x.shape[1])
        states = self._pass(x, positions, self._read_prefix(prompts), prompts.prefix_lengths, own, 0)
        readings = []
        for row, (suffix, ids) in enumerate(zip(prompts.suffix, answers)):
            first = len(suffix) - 1
            readings.append(self._reading(ids, states[row, first : first + len(ids)].cpu()))
        return readings

    def _reading(self, ids: Tensor, states: Tensor) -> Reading:
        return Reading(ids, states[:, 0].contiguous(), states[:, 1:].contiguous() if self.layers else None)

    def _positions(self, prompts: Prompts, length: int) -> Tensor:
        """int64 [row, length]: places of what stands behind the prefix."""
        per_scene = len(prompts.suffix) // len(prompts.prefix_lengths)
        first = prompts.prefix_lengths.repeat_interleave(per_scene)
        return first[:, None] + torch.arange(length, device=first.device)

    def _empty(self, num_rows: int, num_slots: int, filled: Tensor) -> _Own:
        attention = self._decoder.layers[0].self_attn
        heads = attention.k_proj.out_features // attention.head_dim
        shape = (num_rows, heads, num_slots, attention.head_dim)
        device = self.model.device
        make = [torch.zeros(shape, dtype=self.model.dtype, device=device) for _ in range(2 * len(self._decoder.layers))]
        valid = torch.arange(num_slots, device=device)[None, :] < filled[:, None]
        return _Own(make[::2], make[1::2], valid)

    def _read_prefix(self, prompts: Prompts) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [S, head, P, d] of each layer."""
        x = prompts.prefix
        positions = torch.arange(x.shape[1], device=x.device)[None].expand(len(x), -1)
        turn = self._decoder.rotary_emb(x, position_ids=positions)
        kept = []
        for layer in self._decoder.layers:
            q, k, v = _project(layer, x, turn)
            kept.append((k, v))
            # Padding stands on the right, so nothing that counts sees it.
            mixed = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=layer.self_attn.scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
            x = _finish(layer, x, mixed)
        return kept

    def _pass(
        self,
        x: Tensor,
        positions: Tensor,
        prefix: list[tuple[Tensor, Tensor]],
        prefix_lengths: Tensor,
        own: _Own,
        slot: int,
    ) -> Tensor:
        """Read x [row, t, H] into the slots from `slot` on; returns [row, t, 1 + layers, H]."""
        num_new = x.shape[1]
        end = slot + num_new
        turn = self._decoder.rotary_emb(x, position_ids=positions)
        slots = torch.arange(end, device=x.device)
        causal = slots[None, :] <= slot + torch.arange(num_new, device=x.device)[:, None]  # [t, slot]
        seen = own.valid[:, None, :end] & causal  # [row, t, slot]
        seen |= slots == slot + torch.arange(num_new, device=x.device)[:, None]  # padding sees itself: no empty softmax
        before = torch.arange(prefix[0][0].shape[2], device=x.device)[None, :] < prefix_lengths[:, None]  # [S, P]
        layers = {}
        for number, (layer, (prefix_k, prefix_v)) in enumerate(zip(self._decoder.layers, prefix), 1):
            q, k, v = _project(layer, x, turn)
            own_k, own_v = own.keys[number - 1], own.values[number - 1]
            own_k[:, :, slot:end], own_v[:, :, slot:end] = k, v
            mixed = _attend(
                q, prefix_k, prefix_v, own_k[:, :, :end], own_v[:, :, :end], before, seen, layer.self_attn.scaling
            )
            x = _finish(layer, x, mixed)
            if number in self.layers:
                layers[number] = x
        return torch.stack([self._decoder.norm(x), *(layers[number] for number in self.layers)], dim=2)


def _project(layer: Any, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys (both turned by their position) and values [row, head, t, d]."""
    attention, x = layer.self_attn, layer.input_layernorm(x)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (p(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for p in projections)
    cos, sin = (part[:, None] for part in turn)
    return q * cos + _half_turned(q) * sin, k * cos + _half_turned(k) * sin, v


def _half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def _finish(layer: Any, x: Tensor, mixed: Tensor) -> Tensor:
    x = x + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.post_attention_layernorm(x))


def _attend(
    q: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    own_k: Tensor,
    own_v: Tensor,
    before: Tensor,
    seen: Tensor,
    scale: float,
) -> Tensor:
    """Attention of rows over their scene's prefix and their own slots, with one softmax over both.

    Args:
        q: [S * Q, head, t, d].
        prefix_k, prefix_v: [S, key head, P, d].
        own_k, own_v: [S * Q, key head, L, d].
        before, seen: bool [S, P] and [S * Q, t, L], what may be looked at.
    """
    groups = q.shape[1] // own_k.shape[1]
    if groups > 1:
        prefix_k, prefix_v, own_k, own_v = (
            x.repeat_interleave(groups, dim=1) for x in (prefix_k, prefix_v, own_k, own_v)
        )
    num_scenes, (_, heads, length, _) = len(prefix_k), q.shape

    def by_scene(x: Tensor) -> Tensor:  # [S * Q, head, t, n] -> [S, head, Q * t, n]
        return x.view(num_scenes, -1, heads, length, x.shape[-1]).transpose(1, 2).flatten(2, 3)

    def by_row(x: Tensor) -> Tensor:  # and back
        return x.view(num_scenes, heads, -1, length, x.shape[-1]).transpose(1, 2).flatten(0, 1)

    common = by_scene(q) @ prefix_k.transpose(2, 3)
    common = by_row(common.masked_fill(~before[:, None, None, :], -math.inf))
    own = (q @ own_k.transpose(2, 3)).masked_fill(~seen[:, None], -math.inf)
    weights = (torch.cat([common, own], dim=-1).float() * scale).softmax(dim=-1).to(q.dtype)
    num_common = common.shape[-1]
    mixed = by_row(by_scene(weights[..., :num_common].contiguous()) @ prefix_v)
    return mixed + weights[..., num_common:] @ own_v
