"""A cascade: a small drafter is verified by a middle model, and what that keeps is the target's draft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from egptlib._clock import Recorder
from egptlib.decoding._drafters import Draft, Drafter, KeepingDrafter, Stop
from egptlib.decoding._model_drafter import Chain, ModelDrafter
from egptlib.decoding._rules import Lossless, Rule
from egptlib.decoding._sampling import Sampler
from egptlib.decoding._trees import TreeShape
from egptlib.models import Model, Vocabulary, ids_on


class CascadeDrafter(ModelDrafter):
    """Drafter -> middle -> target, as in PyramidSD (and PipeSpec's order of stages, one after the other).

    The middle model checks `gamma` tokens of the inner drafter at a time until as many as the target asked for are
    found. With the lossless rule its tokens are its own (greedy) or drawn from its own distribution, so the target
    can check them by rejection; a lossy inner rule (PyramidSD with fuzzy acceptance) goes with greedy decoding only.

    Args:
        middle: the model in between, over the target's vocabulary up to added specials.
        drafter: what drafts for it, in the same ids.
        vocabulary: between the middle model and the target.
        gamma: tokens the inner drafter drafts at a time.
    """

    def __init__(
        self,
        middle: Model,
        drafter: Drafter,
        vocabulary: Vocabulary,
        gamma: int = 3,
        rule: Rule | None = None,
        name: str | None = None,
    ):
        if not vocabulary.is_shared:
            raise ValueError(f"cascade: {middle.name} and the target need one vocabulary")
        super().__init__(middle, vocabulary, name or f"{drafter.name} > {middle.name}")
        self.drafter, self.gamma, self.rule = drafter, gamma, rule or Lossless()
        self.accepted: list[tuple[int, int]] = []  # (drafted, kept) of the inner verifications

    def keep(self, scene: Any) -> None:
        super().keep(scene)
        if isinstance(self.drafter, KeepingDrafter):
            self.drafter.keep(scene)

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        super().start(scene, question, recorder)
        self.drafter.start(scene, question, recorder)
        self.accepted = []

    def propose_tree(self, answer: Sequence[int], shape: TreeShape, depth: int, sampler: Sampler) -> Draft:
        raise ValueError(f"{self.name}: drafts chains alone, no trees")

    @torch.no_grad()
    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        if not (self.rule.lossless or sampler.greedy):
            raise ValueError(f"{self.name}: under sampling the inner rule has to be lossless, found {self.rule.name}")
        ends, known, left = self.vocabulary.end_token_ids, list(answer), count
        chain, goes_on = Chain(count, sampler, ends, stop), count > 0
        while goes_on:
            room = left - 1
            inner = self.drafter.propose(known, min(self.gamma, room), sampler) if room else Draft()
            inner = inner.first(min(self.gamma, room))
            self.catch_up([*self.vocabulary.to_drafter(known), *inner.tokens])  # the one pass of this verification
            rows = torch.stack(self.rows[len(known) :])  # [n + 1, H]
            theirs = self.vocabulary.to_target(self.model.lm_head(rows))
            verdict = self.rule(inner, theirs, rows, sampler)
            self.accepted.append((len(inner.tokens), verdict.accepted))
            gained = [*inner.tokens[: verdict.accepted], verdict.token]
            theirs = theirs[: len(gained)]
            laws = None if sampler.greedy else sampler.probabilities(theirs)
            goes_on = chain.add(ids_on(theirs.device, gained), theirs, laws) and ends.isdisjoint(gained)
            known += gained
            left -= len(gained)
        return chain.draft()
