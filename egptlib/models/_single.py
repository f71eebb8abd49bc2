"""Prompts read one at a time by the pass that decoding takes: slower than `_batch`, and right for every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from egptlib.models._batch import BatchReader, Reading
from egptlib.models._structure import is_llama
from egptlib.models._tracks import Proposing, RowDrafter

if TYPE_CHECKING:
    from egptlib.models import Model, Prompt, State


class SingleReader:
    """Reads and answers prompts with `Model.prefill` and `Model.step`; methods and arguments as in `BatchReader`."""

    def __init__(self, model: Model, layers: Sequence[int] = (), whole: bool = False) -> None:
        self.model, self.layers, self.whole = model, tuple(layers), whole

    def prompts(self, scenes: Sequence[Sequence[Prompt]]) -> list[Prompt]:
        return [prompt for prompts in scenes for prompt in prompts]

    @torch.no_grad()
    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int, drafter: Proposing | None = None) -> list[Reading]:
        readings = []
        for prompt in prompts:
            state = self.model.prefill(prompt, self.layers, whole=self.whole)
            tokens, rows = list[int](), [self._rows(state.hidden[0], state)]
            while True:
                tokens.append(int(state.logits.argmax()))
                if len(tokens) == max_new_tokens or tokens[-1] in self.model.eos_token_ids:
                    break
                hidden = self.model.step(torch.tensor([tokens[-1:]], device=self.model.device), state).hidden[0]
                rows.append(self._rows(hidden, state))
            readings.append(self._reading(prompt, torch.tensor(tokens), rows))
        return readings

    def drafter(self, *_: Any, **__: Any) -> RowDrafter | None:
        """None: one prompt at a time, nothing is drafted for many."""
        return None

    @torch.no_grad()
    def read(self, prompts: Sequence[Prompt], answers: Sequence[Tensor]) -> list[Reading]:
        readings = []
        for prompt, ids in zip(prompts, answers, strict=True):
            state = self.model.prefill(prompt, self.layers, whole=self.whole)
            rows = [self._rows(state.hidden[0], state)]
            if len(ids) > 1:
                rows.append(self._rows(self.model.read(ids[None, :-1].to(self.model.device), state)[0], state))
            readings.append(self._reading(prompt, ids, rows))
        return readings

    def _rows(self, hidden: Tensor, state: State) -> Tensor:
        """[n, 1 + layers, H] on the CPU."""
        return torch.stack([hidden, *(state.layers[number] for number in self.layers)], dim=1).cpu()

    def _reading(self, prompt: Prompt, ids: Tensor, rows: list[Tensor]) -> Reading:
        states = torch.cat([rows[0][-1:], *rows[1:]])
        layers = states[:, 1:].contiguous() if self.layers else None
        read = rows[0] if self.whole else None
        return Reading(ids, states[:, 0].contiguous(), layers, self.model.rules(prompt), read)


def reader_for(
    model: Model, layers: Sequence[int], scenes: Sequence[Sequence[Prompt]], whole: bool = False
) -> BatchReader | SingleReader:
    """The batched reader where it is exact for a model and its prompts, else one prompt at a time.

    Args:
        layers, whole: as in `BatchReader`.
        scenes: the prompts that are to be read, by scene.
    """
    prompts = [prompt for prompts in scenes for prompt in prompts]
    exact = is_llama(model.language_model) and not any(prompt.given for prompt in prompts)
    return (BatchReader if exact and model.rules(prompts[0]) is None else SingleReader)(model, layers, whole)
