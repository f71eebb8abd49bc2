"""From stored samples to what a level takes, and from its output to the rows it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from egptlib.adapters._layers import Before, moved
from egptlib.adapters._levels import Adapter, AttentionAdapter, Head, SteppingHead, token_states
from egptlib.hidden_states import HiddenBatch, HiddenSample, read_prompt


def given(adapter: Adapter, batch: HiddenBatch, lm_head: Tensor) -> list[Tensor]:
    """The tensors that `adapter.inputs` names, float32, on the lm head's device.

    The drafter's rows are moved by `adapter.drafter_shift`.

    Raises:
        ValueError: the folder does not hold a field, its states have other widths, or the adapter reads with an lm
            head of its own.
    """
    if adapter.settings.draft_vocab:
        raise ValueError(f"adapter {adapter.level} has an lm head of its own, which stored states know nothing of")
    adapter.check_widths(batch.drafter_hidden.shape[-1], lm_head.shape[1])
    tensors = []
    for name in adapter.inputs:
        if name == "token_states":
            tensors.append(token_states(_field(batch, "token_ids").to(lm_head.device), lm_head).float())
            continue
        tensor = _field(batch, name).to(lm_head.device).float()
        tensors.append(moved(tensor, adapter.drafter_shift) if name == "drafter_hidden" else tensor)
    return tensors


def before(adapter: Head, batch: HiddenBatch, lm_head: Tensor) -> Before | None:
    """What the prompts of a batch leave to a head that reads them.

    Row t of a prompt is the target's state behind token t, and token t + 1: its last state is the answer's first row.

    Raises:
        ValueError: the folder does not hold them.
    """
    if not adapter.reads_prompt:
        return None
    prompts = [None if stored is None else read_prompt(stored) for stored in batch.prompts]
    if not prompts or None in prompts:
        raise ValueError(f"{adapter.level}: these hidden states hold no prompts; extract again with --prompt-rows")
    rows = [(p.target_layers[:-1], p.token_ids[1:]) for p in prompts if p is not None]
    valid, layers, ids = (
        pad_sequence(parts, batch_first=True, padding_side="left").to(lm_head.device)
        for parts in ([torch.ones(len(i), dtype=torch.bool) for _, i in rows], *(list(p) for p in zip(*rows)))
    )
    assert isinstance(adapter, SteppingHead)
    return adapter.before(valid, layers.float(), token_states(ids, lm_head).float())


def predictions(adapter: Adapter, batch: HiddenBatch, lm_head: Tensor, depths: int) -> list[tuple[int, Tensor]]:
    """Return (offset, states [b, t, hidden]): states at row t are an idea of the target's row t + offset."""
    tensors = given(adapter, batch, lm_head)
    if isinstance(adapter, Head):
        seen = before(adapter, batch, lm_head)
        return list(enumerate(adapter.ahead(*tensors, depths=depths, before=seen), start=1))
    if isinstance(adapter, AttentionAdapter):
        return [(0, adapter(*tensors, batch.mask.to(lm_head.device)))]
    return [(0, adapter(*tensors))]


def flat(parts: Sequence[tuple[HiddenSample, slice]], inputs: Sequence[str]) -> HiddenBatch:
    """Positions of samples one after the other as a single row, for levels that treat each by itself: no padding.

    Of the fields there are the states of both models, `token_ids`, and those in `inputs`.
    """
    names = {"drafter_hidden", "target_hidden", "token_ids", *inputs}
    rows = {name: [getattr(sample, name) for sample, _ in parts] for name in names}
    tensors: dict[str, Any] = {
        name: torch.cat([row[part] for row, (_, part) in zip(found, parts, strict=True)])[None]
        for name, found in rows.items()
        if found[0] is not None
    }
    mask = torch.ones(tensors["target_hidden"].shape[:2], dtype=torch.bool)
    return HiddenBatch(**tensors, mask=mask, metadata=[sample.metadata for sample, _ in parts])


def _field(batch: HiddenBatch, name: str) -> Tensor:
    tensor: Tensor | None = getattr(batch, name)
    if tensor is None:
        raise ValueError(f"these hidden states hold no {name}; extract again (E3, E3S, DF need layers of the target)")
    return tensor
