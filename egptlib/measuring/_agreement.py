"""What replay needs, recorded without a speculative run: the target's answers, and what the others would have said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from egptlib.models import Model, State, Vocabulary, match_vocabularies


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
    target: Model, drafter: Model, prompts: Iterable[tuple[Any, str]], max_new_tokens: int = 50
) -> Agreement:
    """Answer each prompt with the target and read the answer with the drafter, for `metrics.replay`.

    Raises:
        ValueError: no prompts, or models without a common token.
    """
    vocabulary = match_vocabularies(drafter, target)
    answers, says, match, ends, confidence, own = [], [], [], [], [], []
    for scene, question in prompts:
        answer = target.decode_greedy(target.start(scene, question), max_new_tokens)[0].tolist()
        state = drafter.start(scene, question)
        begin = state.length
        logits = _along(drafter, state, answer, vocabulary)
        drafter.rollback(state, begin)
        own.append(len(_continue(drafter, state, int(logits[0].argmax()), max_new_tokens, vocabulary)))
        best = logits.argmax(dim=-1)
        answers.append(answer)
        says.append(best.tolist())
        match.append(np.equal(says[-1], answer))
        ends.append(np.isin(says[-1], list(vocabulary.end_token_ids)))
        confidence.append(logits.float().softmax(dim=-1).amax(dim=-1).cpu().double().numpy())
    return Agreement(answers, _padded(match), _padded(ends), _padded(confidence), np.array(own), says)


def _along(model: Model, state: State, answer: list[int], vocabulary: Vocabulary) -> Tensor:
    """Logits [n, V] of the target's vocabulary before each token of an answer; the state has read all but the last."""
    first, spelled = vocabulary.to_target(model.lm_head(state.hidden[:, -1])), vocabulary.to_drafter(answer[:-1])
    rows = torch.cat([first, _read(model, state, spelled, vocabulary)]) if spelled else first
    return rows[vocabulary.places(answer)]


def _continue(model: Model, state: State, token: int, count: int, vocabulary: Vocabulary) -> list[int]:
    """`token` and what the model writes after it, up to `count` tokens or its end."""
    tokens = [token]
    while len(tokens) < count and tokens[-1] not in vocabulary.end_token_ids:
        tokens.append(int(_read(model, state, vocabulary.to_drafter(tokens[-1:]), vocabulary)[-1].argmax()))
    return tokens


def _read(model: Model, state: State, ids: list[int], vocabulary: Vocabulary) -> Tensor:
    """Logits [n, V] of the target's vocabulary after each of n more tokens (the model's own ids), as `ModelDrafter`
    drafts from them: without the rules of the model's own generation_config.json."""
    read = model.read(torch.tensor([ids], device=model.device), state)[0]
    return vocabulary.to_target(model.lm_head(read))


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one array, zeros behind them."""
    if not rows:
        raise ValueError("prompts: expected at least one, found none")
    table = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
