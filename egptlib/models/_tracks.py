"""Answers of many rows, brought to any continuation by forgetting and reading, and drafted for, in one pass each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from egptlib.models._device import ids_on
from egptlib.models._rows import Rows

if TYPE_CHECKING:
    from egptlib.models._interface import Model
    from egptlib.models._state import State

Choose = Callable[[Sequence[int], Tensor], Tensor]
"""Row numbers and their logits [rows, V] -> the token of each, int64 [rows], where the logits are."""


class Tracks:
    """What rows have read behind their prompts.

    Args:
        model: see `Rows`, which says which are taken.
        layers: numbers of decoder layers whose states are kept besides the last ones.

    Attributes:
        ids: by row, the answer tokens that were read.
        states: by row, one [1 + layers, H] more than that; number t predicts token t.
        prompts: by row, those along the rest of its prompt, where they were to be kept.
    """

    def __init__(self, model: Model, layers: Sequence[int] = ()):
        self.model, self.rows = model, Rows(model, layers)
        self.ids: dict[int, list[int]] = {}
        self.states: dict[int, list[Tensor]] = {}
        self.prompts: dict[int, Tensor] = {}

    def begin(self, scenes: Sequence[tuple[State | None, Mapping[int, Tensor]]], whole: bool = False) -> None:
        """Read the rest of every prompt.

        Args:
            scenes: the state after a scene's beginning (see `Rows.add`), and by row the embeddings [t, H] that follow,
                t at least 1.
            whole: whether `prompts` is kept.
        """
        for state, rest in scenes:
            self.rows.add(state, list(rest))
        prompts = {row: embeds for _, rest in scenes for row, embeds in rest.items()}
        counts = [len(prompts[row]) for row in self.rows.rows]
        read = self.rows.read(torch.cat([prompts[row] for row in self.rows.rows]), counts)
        for row, states in zip(self.rows.rows, read.split(counts), strict=True):
            self.ids[row], self.states[row] = [], [states[-1].clone()]  # the rest of the prompt's need not stay
            if whole:
                self.prompts[row] = states

    def drop(self, row: int) -> None:
        """Let a row leave; what it read stays here."""
        self.rows.drop(row)

    def cut(self, row: int, length: int) -> None:
        """Forget what a row has read behind so many answer tokens."""
        if length < len(self.ids[row]):
            self.rows.forget(row, len(self.ids[row]) - length)
            del self.ids[row][length:], self.states[row][length + 1 :]

    def catch_up(self, answers: Mapping[int, Sequence[int]]) -> tuple[Tensor, dict[int, int]]:
        """Bring rows to their answers in one pass; rows that are not named stay where they are.

        Returns:
            What was read, [N, 1 + layers, H], and how many of it are whose, in order.
        """
        new: dict[int, list[int]] = {}
        for row in self.rows.rows:
            if (answer := answers.get(row)) is not None:
                have, answer = self.ids[row], list(answer)
                same = len(have) if answer[: len(have)] == have else common_prefix(have, answer)
                self.cut(row, same)
                if same < len(answer):
                    new[row] = answer[same:]
        counts = {row: len(tokens) for row, tokens in new.items()}
        if not new:
            return torch.empty(0), counts
        together = ids_on(self.model.device, [token for tokens in new.values() for token in tokens])
        read = self.rows.read(self.model.token_embedding(together), [counts.get(row, 0) for row in self.rows.rows])
        for (row, tokens), states in zip(new.items(), read.split(list(counts.values())), strict=True):
            self.ids[row] += tokens
            self.states[row] += states.unbind()
        return read, counts


@dataclass
class RowDraft:
    """A row's draft: tokens in the target's ids, the drafter's probability of each, and the logits [V] behind them."""

    tokens: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


class Proposing(Protocol):
    """Drafts for rows: up to counts[row] tokens after answers[row]."""

    def propose(self, answers: Mapping[int, Sequence[int]], counts: Mapping[int, int]) -> dict[int, RowDraft]: ...


class RowDrafter(Tracks):
    """Drafts for all rows at once with one model.

    Args:
        to_own: the target's ids to this model's.
        to_target: logits [n, V of this model] to the target's vocabulary.
        end_token_ids: the target's; a draft ends with one.
    """

    def __init__(
        self,
        model: Model,
        to_own: Callable[[Sequence[int]], list[int]],
        to_target: Callable[[Tensor], Tensor],
        end_token_ids: frozenset[int],
        layers: Sequence[int] = (),
    ):
        super().__init__(model, layers)
        self.to_own, self.to_target, self.end_token_ids = to_own, to_target, end_token_ids

    @torch.no_grad()
    def propose(
        self,
        answers: Mapping[int, Sequence[int]],
        counts: Mapping[int, int],
        stop: Callable[[float], bool] | None = None,
        choose: Choose | None = None,
    ) -> dict[int, RowDraft]:
        """Draft up to counts[row] tokens after answers[row], at least 1 each; `stop` as in the single drafters."""
        drafts = {row: RowDraft() for row in answers}
        along = {row: self.to_own(answer) for row, answer in answers.items()}
        while along:
            self.catch_up(along)
            logits = self.to_target(self.model.lm_head(torch.stack([self.states[row][-1][0] for row in along])))
            ids = logits.argmax(dim=-1) if choose is None else choose(list(along), logits)
            told = torch.stack([ids.double(), likelihoods(logits, ids).double()]).tolist()  # one transfer
            for row, token, sure, own in zip(list(along), map(int, told[0]), told[1], logits, strict=True):
                draft = drafts[row]
                draft.tokens.append(token)
                draft.confidence.append(sure)
                draft.logits.append(own)
                full = len(draft.tokens) == counts[row] or token in self.end_token_ids
                if full or (stop is not None and stop(sure)):
                    del along[row]
                else:
                    along[row] += self.to_own([token])
        return drafts


class LookUp:
    """Drafts what follows an answer's last tokens in texts much like it (prompt look-up, Saxena 2023).

    Args:
        texts: token ids by row.
        most: longest n-gram that is looked for; the longest found counts, in the row's own text before the others',
            where it stands nearest to the same place.
    """

    def __init__(self, texts: Sequence[Sequence[int]], most: int = 3):
        self.texts, self.most = [list(text) for text in texts], most
        self._followed: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # by n-gram, rows and places behind it
        for row, text in enumerate(self.texts):
            for place in range(1, len(text)):
                for n in range(1, min(place, most) + 1):
                    self._followed.setdefault(tuple(text[place - n : place]), []).append((row, place))

    def propose(self, answers: Mapping[int, Sequence[int]], counts: Mapping[int, int]) -> dict[int, RowDraft]:
        return {row: RowDraft(self._after(row, answer, counts[row])) for row, answer in answers.items()}

    def _after(self, row: int, answer: Sequence[int], count: int) -> list[int]:
        for n in range(min(self.most, len(answer)), 0, -1):
            if found := self._followed.get(tuple(answer[-n:])):
                text, place = min(found, key=lambda at: (at[0] != row, abs(at[1] - len(answer)), at))
                return self.texts[text][place : place + count]
        return []


def answer_rows(
    tracks: Tracks, max_new_tokens: int, drafter: Proposing | None = None, gamma: int = 0
) -> dict[int, list[int]]:
    """The greedy answer of every row, its end token included; `tracks.states` holds what predicts each token.

    What was read already counts as drafted. Beside a drafter rows leave when they end; without one they stay, to be
    read on or to draft for another model.

    Args:
        drafter: has read the same questions, by the same numbers.
        gamma: draft tokens of a row at most.
    """
    model = tracks.model
    answers: dict[int, list[int]] = {row: [] for row in tracks.states}
    going, offered = dict(answers), dict(tracks.ids)
    while True:
        judging = {row: tracks.states[row][len(tokens) : max_new_tokens] for row, tokens in going.items()}
        states = torch.stack([own[0] for states in judging.values() for own in states])
        choices = iter(model.lm_head(states).argmax(dim=-1).tolist())
        for row, states_of in judging.items():
            gained = [next(choices) for _ in states_of]
            gained = gained[: common_prefix(offered.get(row, []), gained) + 1]
            ends = [place for place, token in enumerate(gained) if token in model.eos_token_ids]
            going[row] += gained[: ends[0] + 1] if ends else gained
            if ends or len(going[row]) == max_new_tokens:
                del going[row]
                if drafter is not None:
                    tracks.drop(row)
        if not going:
            return answers
        offered = {}
        if drafter is not None:
            counts = {row: min(gamma, max_new_tokens - len(tokens) - 1) for row, tokens in going.items()}
            counts = {row: count for row, count in counts.items() if count > 0}
            drafts = drafter.propose({row: going[row] for row in counts}, counts)
            offered = {row: draft.tokens for row, draft in drafts.items()}
        tracks.catch_up({row: tokens + offered.get(row, []) for row, tokens in going.items()})


def likelihoods(logits: Tensor, tokens: Tensor) -> Tensor:
    """The probability of each of n tokens after its row of logits [n, V], before temperature, float32 [n].

    In float32, whatever the logits are in: from 0.9 to 1 bfloat16 has 26 numbers, and thresholds on a drafter's
    confidence lie there.
    """
    wide = logits.float()
    return (wide.gather(1, tokens[:, None])[:, 0] - wide.logsumexp(dim=-1)).exp()


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading items two sequences share."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
