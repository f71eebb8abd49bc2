"""What replay needs, recorded without a speculative run: the target's answers, and what the others would have said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from egptlib._clock import Recorder
from egptlib._whole import whole_numbers
from egptlib.decoding import ModelDrafter, Sampler
from egptlib.models import Model, match_vocabularies


@dataclass(frozen=True)
class Agreement:
    """The target's greedy answers, and a drafter read along them; arrays [sample, position], padded.

    Attributes:
        token_ids: one answer a sample, its end token included where it was reached.
        match: bool, whether the drafter's next token is the target's; False beyond an answer.
        ends: bool, whether the drafter's next token ends an answer.
        confidence: float64, its probability; 0 beyond an answer.
        own_lengths: int64 [sample], tokens of the answer that the drafter writes by itself: no more can be drafted
            before the target is ready.
        drafter_ids: its next token at each position of an answer, as the target numbers it.
    """

    token_ids: list[list[int]]
    match: np.ndarray
    ends: np.ndarray
    confidence: np.ndarray
    own_lengths: np.ndarray
    drafter_ids: list[list[int]] = field(default_factory=list)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [sample]."""
        return np.array([len(ids) for ids in self.token_ids], dtype=np.int64)


@torch.no_grad()
def record_agreement(
    target: Model,
    drafter: Model,
    prompts: Iterable[tuple[Any, str]],
    max_new_tokens: int = 50,
    answers: Sequence[Sequence[int]] = (),
) -> Agreement:
    """Answer each prompt with the target and read the answer with the drafter, for `metrics.replay`.

    Args:
        answers: token ids of the target's greedy answers, one a prompt, where a run has them already.

    Raises:
        ValueError: no prompts, another number of answers, or models without a common token.
    """
    vocabulary = match_vocabularies(drafter, target)
    reader = ModelDrafter(drafter, vocabulary)
    ids, says, match, ends, confidence, own = [], [], [], [], [], []
    known = [whole_numbers(answer, "answers") for answer in answers]
    if known:
        prompts = list(prompts)
        if len(prompts) != len(known):
            raise ValueError(f"answers: expected one for each of {len(prompts)} prompts, found {len(known)}")
    for i, (scene, question) in enumerate(prompts):
        if known:
            answer = known[i]
        else:
            answer = target.decode_greedy(target.start(scene, question), max_new_tokens)[0].tolist()
        reader.start(scene, question, Recorder())
        reader.catch_up(vocabulary.to_drafter(answer[:-1]))
        rows = torch.stack(reader.rows)[vocabulary.places(answer)]
        logits = vocabulary.to_target(drafter.lm_head(rows))
        own.append(len(reader.propose([], max_new_tokens, Sampler()).tokens))
        best = logits.argmax(dim=-1)
        ids.append(answer)
        says.append(best.tolist())
        match.append(np.equal(says[-1], answer))
        ends.append(np.isin(says[-1], list(vocabulary.end_token_ids)))
        confidence.append(logits.float().softmax(dim=-1).amax(dim=-1).cpu().double().numpy())
    return Agreement(ids, _padded(match), _padded(ends), _padded(confidence), np.array(own), says)


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one array, zeros behind them."""
    if not rows:
        raise ValueError("prompts: expected at least one, found none")
    table = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
