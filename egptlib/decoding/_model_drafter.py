"""A model as the drafter: EventGPT, or any other behind the common interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from egptlib._clock import Recorder
from egptlib.decoding._drafters import Draft, Stop
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._sampling import Sampler
from egptlib.decoding._trees import TreeShape, grow
from egptlib.models import Model, State, Vocabulary, check_trees, common_prefix, confidences, likelihoods


class ModelDrafter:
    """Drafts with a model, token by token, in the target's ids.

    Args:
        model: the drafter.
        vocabulary: what the target's ids mean to it (see `shared_vocabulary`, `common_vocabulary`).

    Attributes:
        state: where the model stands.
        read: the answer tokens (its own ids) in its cache.
        rows: last hidden states [H]; row t stands before token t of `read`, so there is one more than tokens.
    """

    def __init__(self, model: Model, vocabulary: Vocabulary, name: str | None = None):
        self.model, self.vocabulary, self.name = model, vocabulary, name or model.name
        self.device = model.device
        self.state: State | None = None
        self.read: list[int] = []
        self.rows: list[Tensor] = []
        self._kept: PromptReader | None = None
        self._nodes: list[tuple[int, Tensor]] = []  # of the tree in its cache: token and last hidden state

    def keep(self, scene: Any) -> None:
        """From now on what prompts about this scene have in common is read once; None ends that."""
        if self._kept is None or self._kept.scene is not scene:
            self._kept = None if scene is None else PromptReader(self.model, scene, "drafter")

    def reader(self, scene: Any) -> PromptReader:
        """Reads prompts about a scene: the one kept, if it is about this scene, or a new one."""
        kept = self._kept
        return kept if kept is not None and kept.scene is scene else PromptReader(self.model, scene, "drafter")

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        self.begin(self.reader(scene).read(question, recorder))

    def begin(self, state: State) -> None:
        """Draft from a prompt that was read already."""
        self.state, self.read, self.rows, self._nodes = state, [], [state.hidden[0, -1]], []

    @torch.no_grad()
    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        draft = Draft()
        if count < 1:
            return draft
        logits, probabilities = [], []
        self.catch_up(self.vocabulary.to_drafter(answer))
        if sampler.greedy and stop is None and self.device.type != "cpu" and self.vocabulary.is_shared:
            return self._draft_there(count)
        while True:
            logits.append(self.next_logits())
            if sampler.greedy:
                token = int(logits[-1].argmax())
            else:
                probabilities.append(sampler.probabilities(logits[-1]))
                token = sampler.draw(probabilities[-1])
            draft.tokens.append(token)
            draft.confidence.append(confidences(logits[-1][None], [token])[0])
            full = len(draft.tokens) == count or token in self.vocabulary.end_token_ids
            if full or (stop is not None and stop(draft.confidence[-1])):
                break
            self.read_on(self.vocabulary.to_drafter([token]))
        draft.logits = torch.stack(logits)
        draft.probabilities = torch.stack(probabilities) if probabilities else None
        return draft

    @torch.no_grad()
    def propose_tree(self, answer: Sequence[int], shape: TreeShape, depth: int, sampler: Sampler) -> Draft:
        check_trees(self.model)
        self.catch_up(self.vocabulary.to_drafter(answer))

        def read(tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
            assert self.state is not None
            own = self.vocabulary.to_drafter(tokens)
            rows = self.model.read(torch.tensor([own], device=self.device), self.state, parents)[0]
            self._nodes += zip(own, rows, strict=True)
            return self.vocabulary.to_target(self.model.lm_head(rows))

        return grow(self.next_logits(), read, shape, depth, sampler, self.vocabulary.end_token_ids)

    def _draft_there(self, count: int) -> Draft:
        """A greedy draft that stays on its device until it is whole, so that the host waits once and not at each token.

        What was drafted behind an end token is left out; it was cheaper than asking for it.
        """
        logits, chosen = [self.next_logits()], list[Tensor]()
        while True:
            chosen.append(logits[-1].argmax()[None])
            if len(chosen) == count:
                break
            self._read_there(chosen[-1].to(self.device))
            logits.append(self.next_logits())
        rows, ids = torch.stack(logits), torch.cat(chosen)
        told = torch.stack([ids.double(), likelihoods(rows, ids).double()]).tolist()  # the one transfer
        tokens, confidence = [int(token) for token in told[0]], told[1]
        self.read += tokens[:-1]
        ends = (place for place, token in enumerate(tokens, start=1) if token in self.vocabulary.end_token_ids)
        return Draft(tokens, confidence, None, rows).first(next(ends, count))

    def next_logits(self) -> Tensor:
        """[V] of the target's vocabulary, after all that was read."""
        return self.vocabulary.to_target(self.model.lm_head(self.rows[-1]))

    def catch_up(self, tokens: list[int]) -> None:
        """Bring the cache to an answer: forget from where it differs, read what is new.

        Raises:
            ValueError: the prompt has not been read.
        """
        if self.state is None:
            raise ValueError(f"{self.name}: expected start() before propose()")
        if self._nodes:
            self._settle(tokens)
        shared = common_prefix(self.read, tokens)
        if shared < len(self.read):
            self.model.rollback(self.state, self.state.length - len(self.read) + shared)
            del self.read[shared:], self.rows[shared + 1 :]
        if shared < len(tokens):
            self.read_on(tokens[shared:])

    def _settle(self, tokens: list[int]) -> None:
        """Of the tree that was drafted keep the path that the answer took."""
        assert self.state is not None
        path, at = list[int](), -1
        new = tokens[len(self.read) :] if tokens[: len(self.read)] == self.read else []
        for token in new:
            nodes = enumerate(zip(self.state.tree, self._nodes, strict=True))
            at = next((node for node, (parent, (own, _)) in nodes if parent == at and own == token), -1)
            if at < 0:
                break
            path.append(at)
        self.model.settle(self.state, path)
        self.read += [self._nodes[node][0] for node in path]
        self.rows += [self._nodes[node][1] for node in path]
        self._nodes = []

    def read_on(self, tokens: list[int]) -> None:
        """Read more tokens (its own ids) in one pass; none where the target's token cannot be spelled in them."""
        assert self.state is not None
        if not tokens:
            return
        self._read_there(torch.tensor(tokens, device=self.device))
        self.read += tokens

    def _read_there(self, tokens: Tensor) -> None:
        """Read ids [n] that are on the device already, and are to be noted in `read`."""
        assert self.state is not None
        self.rows.extend(self.model.read(tokens[None], self.state)[0])
