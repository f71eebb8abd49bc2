"""Reading prompts, stage by stage; of several about one scene, what is common is seen and read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from egptlib._clock import Recorder
from egptlib.models import Inputs, Model, Prompt, Prompts, State, weight_versions


class MoreThanEmbeddingsError(ValueError):
    """Prompts that carry more than embeddings, and so are read one by one."""


class PromptReader:
    """Reads prompts about one scene with one model, one after the other.

    The pictures go through preprocessing and tower once. Of every further prompt only what follows its common beginning
    with the one before is read: the cache is rolled back to there, so the state of the prompt before ends.
    Replaced or changed weights are noticed, and everything is read anew.
    """

    def __init__(self, model: Model, scene: Any, lane: str):
        self.model, self.scene, self.lane = model, scene, lane
        self._inputs: Inputs | None = None
        self._prompt = Prompt(torch.empty(0))
        self._state: State | None = None
        self._versions: tuple[tuple[int, int], ...] = ()

    def encode(self, question: str, recorder: Recorder) -> Prompt:
        """A question's prompt: preprocess and see."""
        with recorder(self.lane, "preprocess", self.model.device):
            self._inputs = self.model.encode(self.scene, question, like=self._inputs)
        with recorder(self.lane, "vision", self.model.device), torch.no_grad():
            return Prompt.of(self.model.embed(self._inputs))

    def read(self, question: str, recorder: Recorder, layers: Sequence[int] = (), whole: bool = False) -> State:
        """Preprocess, see and prefill, each stage recorded; `layers` as in `Model.prefill`.

        With `whole` all of the prompt is read, whatever was before, and its ids and states are given.
        """
        self._look_at_weights()
        if whole:
            self._state = None
        state = self.read_prompt(self.encode(question, recorder), recorder, layers, whole)
        if whole and self._inputs is not None:
            state.prompt_ids = self._inputs.input_ids[0]
        return state

    def read_prompt(self, prompt: Prompt, recorder: Recorder, layers: Sequence[int] = (), whole: bool = False) -> State:
        """Prefill alone: of a prompt that was seen already."""
        with recorder(self.lane, "prefill", self.model.device):
            # At least one position is read: its state predicts the first token of the answer.
            kept, self._state = self._kept(prompt, prompt.embeds.shape[1] - 1), None
            self._prompt, self._state = prompt, self.model.prefill(prompt, layers, kept, whole)
        return self._state

    def read_together(self, questions: Sequence[str], recorder: Recorder) -> tuple[State | None, list[Tensor]]:
        """Read what the prompts of some questions have in common, but no whole prompt.

        Returns:
            The state there (None: nothing is common), which must not be used after the next prompt is read; and the
            embeddings [t, H] that follow in each prompt.

        Raises:
            MoreThanEmbeddingsError: a prompt carries more.
        """
        self._look_at_weights()
        prompts = [self.encode(question, recorder) for question in questions]
        if any(prompt.given for prompt in prompts):
            raise MoreThanEmbeddingsError(
                f"{self.model.name}: prompts that carry more than embeddings are read one by one"
            )
        ((first, rests),) = Prompts.of([[prompt.embeds[0] for prompt in prompts]]).scenes
        common, length = Prompt(first[None]), len(first)
        with recorder(self.lane, "prefill", self.model.device):
            state, self._state = self._kept(common, length), None
            if length and (state is None or state.length < length):
                state = self.model.prefill(common, after=state)
            self._prompt, self._state = common, state if length else None
        return self._state, rests

    def _look_at_weights(self) -> None:
        if self._versions != (versions := weight_versions(self.model.module)):
            self._versions, self._inputs, self._state = versions, None, None

    def _kept(self, prompt: Prompt, most: int) -> State | None:
        """The state of the prompt before, rolled back to what it shares with this one, at most so many positions.

        None: nothing can be kept.
        """
        state = self._state
        if state is None or self._prompt.given or prompt.given:
            return None
        if state.length != state.cache.get_seq_length():
            return None  # a pass over it was interrupted
        self.model.rollback(state, min(same_beginning(self._prompt.embeds, prompt.embeds), most))
        return state


class FrameReader:
    """Reads a question's prompt while its frames come, one by one; a model with `frames_apart`.

    Of each prompt only what differs from the one before is read (`PromptReader`).

    Args:
        num_frames: how many there will be.
    """

    def __init__(self, model: Model, question: str, num_frames: int):
        self.model, self.question, self.num_frames = model, question, num_frames
        self._reader, self._seen = PromptReader(model, None, "target"), list[Inputs]()

    def see(self, scene: Any, recorder: Recorder) -> None:
        """Preprocess and see the next frame: the only one of a scene."""
        with recorder("target", "preprocess", self.model.device):
            self._seen.append(self.model.encode(scene, self.question))
        with recorder("target", "vision", self.model.device), torch.no_grad():
            self.model.embed(self._seen[-1])

    def read(self, recorder: Recorder) -> None:
        """Read the prompt as far as the frames to come leave it as it is."""
        prompt, settled = self._prompt()
        self._reader.read_prompt(Prompt(prompt.embeds[:, :settled]), recorder)

    def ask(self, recorder: Recorder, layers: Sequence[int] = ()) -> State:
        """Read the prompt to its end; the last frame seen stands in for those to come."""
        return self._reader.read_prompt(self._prompt()[0], recorder, layers)

    def _prompt(self) -> tuple[Prompt, int]:
        inputs, settled = self.model.joined(self._seen, self.num_frames, self.question)
        with torch.no_grad():
            return Prompt.of(self.model.embed(inputs)), settled


def same_beginning(a: Tensor, b: Tensor) -> int:
    """How many leading positions two prompts [1, T, H] share."""
    length = min(a.shape[1], b.shape[1])
    return int((a[0, :length] == b[0, :length]).all(dim=-1).int().cumprod(dim=0).sum())
