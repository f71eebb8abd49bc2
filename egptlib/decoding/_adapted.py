"""Drafting at the feature level: an adapter turns states into the target's, and the target's lm head reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from egptlib.adapters import Adapter, Head
from egptlib.decoding._drafters import Draft, Stop
from egptlib.decoding._model_drafter import ModelDrafter
from egptlib.decoding._sampling import Sampler
from egptlib.decoding._vocabulary import Vocabulary
from egptlib.models import Model, State

POINTWISE = ("L1", "L2", "L3")  # levels that look at one row alone


class AdapterDrafter(ModelDrafter):
    """The drafter's states, aligned (L1 to L4), read by the target's lm head. Tokens come in the target's ids.

    The draft carries its aligned states, which the lossy cosine rule compares.
    """

    def __init__(self, model: Model, adapter: Adapter, target: Model, vocabulary: Vocabulary, name: str | None = None):
        if adapter.runs_ahead:
            raise ValueError(f"adapter {adapter.level} runs ahead: expected L1 to L4 here (see HeadDrafter)")
        super().__init__(model, vocabulary, name or f"{model.name} + {adapter.level}")
        self.adapter, self.lm_head = adapter.eval(), target.lm_head
        self._aligned: list[Tensor] = []

    @torch.no_grad()
    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        self._aligned = []
        draft = super().propose(answer, count, sampler, stop)
        draft.hidden = torch.stack(self._aligned) if self._aligned else None
        return draft

    def next_logits(self) -> Tensor:
        rows = self.rows[-1:] if self.adapter.level in POINTWISE else self.rows
        weight = next(self.adapter.parameters())
        self._aligned.append(
            self.adapter(torch.stack(rows)[None].to(weight.dtype))[0, -1].to(self.lm_head.weight.dtype)
        )
        return self.lm_head(self._aligned[-1])


class HeadDrafter(ModelDrafter):
    """A head that runs ahead in feature space from what is known (L5 on the drafter's states, B1, L5F).

    One run of the head gives all draft tokens, except with a head that wants the drafter to read along (L5F), which
    is asked token by token. The loop hands the target's states over through `watch`.
    """

    def __init__(self, model: Model, head: Head, target: Model, vocabulary: Vocabulary, name: str | None = None):
        unknown = set(head.inputs) - {"drafter_hidden", "target_hidden"}
        if unknown:
            raise ValueError(
                f"head {head.level}: needs {', '.join(sorted(unknown))}, which the loop does not hand over"
            )
        super().__init__(model, vocabulary, name or f"{head.level} head")
        self.head, self.lm_head = head.eval(), target.lm_head
        self.target_rows: list[Tensor] = []

    def begin(self, state: State) -> None:
        super().begin(state)
        self.target_rows = []

    def watch(self, rows: Tensor) -> None:
        """The target's states [k, H] that gave the answer's next k tokens."""
        self.target_rows.extend(rows)

    @torch.no_grad()
    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        draft = Draft()
        n = len(answer)
        count = min(count, self.head.settings.max_positions - n)
        if count < 1 or n == 0:
            return draft
        states, logits, probabilities = list[Tensor](), list[Tensor](), list[Tensor]()
        for depth in range(count):
            if depth == len(states):
                states = self._run(list(answer), draft.tokens, depth + 1 if self.head.drafter_along else count)
            logits.append(self.lm_head(states[depth].to(self.lm_head.weight.dtype)))
            if sampler.greedy:
                token = int(logits[-1].argmax())
            else:
                probabilities.append(sampler.probabilities(logits[-1]))
                token = sampler.draw(probabilities[-1])
            draft.tokens.append(token)
            draft.confidence.append(float((logits[-1][token] - logits[-1].logsumexp(dim=0)).exp()))
            ended = token in self.vocabulary.end_token_ids
            if ended or (stop is not None and stop(draft.confidence[-1])):
                break
        draft.logits = torch.stack(logits)
        draft.hidden = torch.stack(states[: len(draft.tokens)])
        draft.probabilities = torch.stack(probabilities) if probabilities else None
        return draft

    def _run(self, answer: list[int], drafted: list[int], depths: int) -> list[Tensor]:
        """States [H] that predict the next `depths` tokens after the answer; its last row is the anchor."""
        n = len(answer)
        dtype = next(self.head.parameters()).dtype
        given = []
        if "drafter_hidden" in self.head.inputs:
            along = self.head.drafter_along
            tokens = [*answer, *drafted] if along else answer[:-1]
            self.catch_up(self.vocabulary.to_drafter(tokens))
            # A head that reads along takes the drafter's row t + 1, which has read token t, beside the target's row t.
            given.append(torch.stack(self.rows[1:] if along else self.rows))
        if "target_hidden" in self.head.inputs:
            known = torch.stack(self.target_rows[:n])
            missing = (len(given[0]) if given else n) - n
            given.append(torch.nn.functional.pad(known, (0, 0, 0, missing)))
        ahead = self.head.ahead(*(rows[None].to(dtype) for rows in given), depths=depths)
        return [state[0, n - 1] for state in ahead]
