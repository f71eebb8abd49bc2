"""Many questions about a few scenes in one pass: what is common to a scene's prompts is read and kept once.

The prompts of a scene differ only after its pictures, by far their longest part. Their common beginning is read once,
and all its questions look at that one copy (see `_rows`), so ten questions need the memory of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from egptlib.models._structure import is_llama
from egptlib.models._tracks import Proposing, RowDrafter, Tracks, answer_rows

if TYPE_CHECKING:
    from egptlib.models import Model, Prompt, State
    from egptlib.models._rules import Rules
    from egptlib.models._vocabulary import Vocabulary

GAMMA = 5  # draft tokens of a row at most: in a batch every one of them costs the target almost a token of its own


@dataclass(frozen=True)
class Reading:
    """What one model has in mind along one answer.

    Attributes:
        token_ids: int64 [n] on the CPU.
        hidden: [n, H] on the CPU, behind the final norm; row t predicts token t.
        layers: [n, layers, H] on the CPU, before the final norm; None where no layers were asked for.
        rules: what the checkpoint's generation_config.json does to logits after the prompt; mostly None.
        prompt: [P, 1 + layers, H], the same states along the prompt, whose last row is the answer's first; None where
            they were not asked for.
    """

    token_ids: Tensor
    hidden: Tensor
    layers: Tensor | None
    rules: Rules | None = None
    prompt: Tensor | None = None


@dataclass
class Prompts:
    """Prompts by scene, split where the questions of a scene begin to differ.

    Attributes:
        scenes: embeddings [P, H] of what a scene's prompts have in common, and of the rest of each, [t, H].
    """

    scenes: list[tuple[Tensor, list[Tensor]]]

    @classmethod
    def of(cls, scenes: Sequence[Sequence[Tensor]]) -> Prompts:
        """From the embeddings [T, H] of each question of each scene."""
        split = []
        for prompts in scenes:
            first, shortest = prompts[0], min(map(len, prompts))
            same = torch.stack([(p[:shortest] == first[:shortest]).all(-1) for p in prompts]).all(0)
            # At least one token stays behind the common part: its state predicts the first token of the answer.
            length = min(int(same.cumprod(0).sum()), shortest - 1)
            # Copies: a view would hold the whole prompt, pictures and all, once a question.
            split.append((first[:length].clone(), [p[length:].clone() for p in prompts]))
        return cls(split)


class BatchReader:
    """Reads and answers batches of prompts with one model.

    Args:
        model: its language model is a Llama (`_structure.is_llama`), as both models of the pair have.
        layers: numbers of decoder layers after which states are kept besides the last ones.
        whole: whether the states along the prompts are given too.

    Raises:
        ValueError: another language model.
    """

    def __init__(self, model: Model, layers: Sequence[int] = (), whole: bool = False) -> None:
        self.model, self.layers, self.whole = model, tuple(layers), whole
        self._beginnings: dict[int, Tensor] = {}  # by row: of a scene's rows one tensor
        self._rows: tuple[Prompts, RowDrafter] | None = None

    def prompts(self, scenes: Sequence[Sequence[Prompt]]) -> Prompts:
        """What `answer` and `read` take, from the prompts of each scene."""
        return Prompts.of([[prompt.embeds[0] for prompt in prompts] for prompts in scenes])

    @torch.no_grad()
    def answer(self, prompts: Prompts, max_new_tokens: int, drafter: Proposing | None = None) -> list[Reading]:
        """The greedy answer to each prompt, its end token included; every row stops at its own.

        Args:
            drafter: has the same rows, as what another reader's `drafter` gives; the tokens stay the same.
        """
        tracks = self._tracks(prompts)
        answers = answer_rows(tracks, max_new_tokens, drafter, GAMMA)
        return [self._reading(torch.tensor(ids), tracks, row) for row, ids in answers.items()]

    @torch.no_grad()
    def read(self, prompts: Prompts, answers: Sequence[Tensor]) -> list[Reading]:
        """Read given answers, one token list per row, in one pass (teacher forcing): of each what was not read yet."""
        tracks = self._tracks(prompts)
        tracks.catch_up({row: ids[:-1].tolist() for row, ids in enumerate(answers)})
        return [self._reading(ids, tracks, row) for row, ids in enumerate(answers)]

    @torch.no_grad()
    def drafter(self, prompts: Prompts, vocabulary: Vocabulary) -> RowDrafter | None:
        """Drafts for another model's answers to the same questions; `vocabulary` is between this one and that."""
        tracks = self._tracks(prompts)
        tracks.to_own, tracks.to_target = vocabulary.to_drafter, vocabulary.to_target
        tracks.end_token_ids = vocabulary.end_token_ids
        return tracks

    def _tracks(self, prompts: Prompts) -> RowDrafter:
        """The rows of these prompts, their beginnings and ends read; those there are, if they are of the same ones."""
        if self._rows is None or self._rows[0] is not prompts:
            tracks = RowDrafter(self.model, list, lambda logits: logits, self.model.eos_token_ids, self.layers)
            scenes, number = [], 0
            self._beginnings = {}
            for beginning, rest in prompts.scenes:
                state = None
                if len(beginning):
                    layers = self.layers if self.whole else ()
                    state = self.model.prefill(beginning[None], layers, whole=self.whole, room=0)
                    if self.whole:
                        read = torch.stack([state.hidden[0], *state.layers.values()], dim=1).cpu()
                        self._beginnings |= dict.fromkeys(range(number, number + len(rest)), read)
                scenes.append((state, dict(enumerate(rest, start=number))))
                number += len(rest)
            tracks.begin(scenes, self.whole)
            self._rows = (prompts, tracks)
        return self._rows[1]

    def _reading(self, ids: Tensor, tracks: Tracks, row: int) -> Reading:
        states = torch.stack(tracks.states[row][: len(ids)]).cpu()
        prompt = None
        if self.whole:
            parts = [*([self._beginnings[row]] if row in self._beginnings else []), tracks.prompts[row].cpu()]
            prompt = torch.cat(parts)
        layers = states[:, 1:].contiguous() if self.layers else None
        return Reading(ids, states[:, 0].contiguous(), layers, prompt=prompt)


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
