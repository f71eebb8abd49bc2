"""Reading prompts, stage by stage; of several about one scene, what is common is seen and read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from egptlib.decoding._generation import Lane, Recorder
from egptlib.models import Inputs, Model, Prompt, State, weight_versions


class PromptReader:
    """Reads prompts about one scene with one model, one after the other.

    The pictures go through preprocessing and tower once. Of every further prompt only what follows its common beginning
    with the one before is read: the cache is rolled back to there, so the state of the prompt before ends.
    Replaced or changed weights are noticed, and everything is read anew.
    """

    def __init__(self, model: Model, scene: Any, lane: Lane):
        self.model, self.scene, self.lane = model, scene, lane
        self._inputs: Inputs | None = None
        self._prompt = Prompt(torch.empty(0))
        self._state: State | None = None
        self._versions: tuple[tuple[int, int], ...] = ()

    def encode(self, question: str, recorder: Recorder) -> Prompt:
        """A question's prompt: preprocess and see."""
        if self._versions != (versions := weight_versions(self.model.module)):
            self._versions, self._inputs, self._state = versions, None, None
        with recorder(self.lane, "preprocess", self.model.device):
            self._inputs = self.model.encode(self.scene, question, like=self._inputs)
        with recorder(self.lane, "vision", self.model.device), torch.no_grad():
            return Prompt.of(self.model.embed(self._inputs))

    def read(self, question: str, recorder: Recorder, layers: Sequence[int] = ()) -> State:
        """Preprocess, see and prefill, each stage recorded; `layers` as in `Model.prefill`."""
        prompt = self.encode(question, recorder)
        with recorder(self.lane, "prefill", self.model.device):
            kept, self._state = self._kept_of(prompt), None
            self._prompt, self._state = prompt, self.model.prefill(prompt, layers, kept)
        return self._state

    def _kept_of(self, prompt: Prompt) -> State | None:
        """The state of the prompt before, rolled back to what it shares with this one; None: nothing can be kept."""
        state = self._state
        if state is None or self._prompt.given or prompt.given:
            return None
        if state.length != state.cache.get_seq_length():
            return None  # a pass over it was interrupted
        # At least one position is read: its state predicts the first token of the answer.
        same = same_beginning(self._prompt.embeds, prompt.embeds)
        self.model.rollback(state, min(same, prompt.embeds.shape[1] - 1))
        return state


def same_beginning(a: Tensor, b: Tensor) -> int:
    """How many leading positions two prompts [1, T, H] share."""
    length = min(a.shape[1], b.shape[1])
    return int((a[0, :length] == b[0, :length]).all(dim=-1).int().cumprod(dim=0).sum())
