"""Where drafters choose their tokens: one after the other, each from the logits behind the one before, or at once."""

from __future__ import annotations

import torch
from torch import Tensor

from egptlib.decoding._drafters import Draft, Stop
from egptlib.decoding._sampling import Sampler, pick
from egptlib.models import likelihoods


class Chain:
    """A draft on its way: it chooses tokens, notes what they came from, and says whether to go on.

    On a GPU the host waits once, when the draft is whole, unless somebody has to know a token before: what was drafted
    behind an end token is left out then, which is cheaper than asking after each token. On a CPU, where asking costs
    nothing, the draft ends there.

    Args:
        count: tokens at most.
        ends: tokens behind which nothing is drafted.
        stop: as in `Drafter.propose`; the host is told each token with its confidence, in one transfer.
        known: whether each token has to be known as soon as it is chosen.

    Attributes:
        tokens: those that the host knows.
        last: the token chosen last, int64 [1], where its logits are.
    """

    def __init__(
        self, count: int, sampler: Sampler, ends: frozenset[int], stop: Stop | None = None, known: bool = False
    ):
        self.count, self.sampler, self.ends, self.stop = count, sampler, ends, stop
        self.known = known or stop is not None
        self.tokens, self.confidence = list[int](), list[float]()
        self.last = torch.empty(0, dtype=torch.long)
        self._ids, self._logits, self._laws = list[Tensor](), list[Tensor](), list[Tensor]()
        self._numbers: list[float] = []

    def choose(self, logits: Tensor) -> bool:
        """Choose the next tokens, from logits [V] or [n, V] of the target's vocabulary; whether the draft goes on."""
        logits = logits.reshape(-1, logits.shape[-1])
        if self.sampler.greedy:
            return self.add(logits.argmax(dim=-1), logits)
        laws = self.sampler.probabilities(logits)
        if not self._numbers:  # all at once: how many are drawn must not depend on where the draft ends
            self._numbers = self.sampler.uniform(self.count)
        numbers = self._numbers[sum(map(len, self._ids)) :]
        ids = [pick(law, number) for law, number in zip(laws, numbers, strict=False)]
        return self.add(torch.cat(ids), logits, laws)

    def add(self, ids: Tensor, logits: Tensor, laws: Tensor | None = None) -> bool:
        """Add tokens [n] that were chosen from logits [n, V]; whether the draft goes on behind them.

        Args:
            laws: what they were drawn from, [n, V]; None: chosen with certainty.
        """
        self._ids.append(ids)
        self._logits.append(logits)
        if laws is not None:
            self._laws.append(laws)
        self.last = ids[-1:]
        if self.known or logits.device.type == "cpu":
            return self._tell(ids, logits)
        return sum(map(len, self._ids)) < self.count

    def _tell(self, ids: Tensor, logits: Tensor) -> bool:
        """Tell the host tokens and their confidences, up to where the draft ends; whether it goes on behind them."""
        told = torch.stack([ids.double(), likelihoods(logits, ids).double()]).tolist()  # one transfer
        for token, sure in zip(*told, strict=True):
            self.tokens.append(int(token))
            self.confidence.append(sure)
            full = len(self.tokens) == self.count or self.tokens[-1] in self.ends
            if full or (self.stop is not None and self.stop(sure)):
                return False
        return True

    def draft(self) -> Draft:
        """The draft as it stands."""
        if not self._ids:
            return Draft()
        ids, logits = torch.cat(self._ids), torch.cat(self._logits)
        if not self.tokens:
            self._tell(ids, logits)
        laws = torch.cat(self._laws) if self._laws else None
        count = len(self.tokens)
        return Draft(self.tokens, self.confidence, None if laws is None else laws[:count], logits[:count])
