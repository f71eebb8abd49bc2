"""How a next token is chosen: the likeliest one, or drawn after temperature, top-k and top-p."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from egptlib._whole import number, whole


@dataclass(frozen=True)
class Sampling:
    """Settings of a draw, applied to drafter and target alike, in transformers' order.

    Attributes:
        temperature: logits are divided by it; above 0 (greedy decoding is `sampling=None`).
        top_k: only the k likeliest tokens stay; None keeps all.
        top_p: only the smallest set of likeliest tokens whose probabilities reach top_p stays; 1.0 keeps all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 1e-30 <= self.temperature < math.inf:  # below, quotients are no numbers of float32
            raise ValueError(
                f"temperature: expected a finite number above 0 (greedy is sampling=None), found {self.temperature}"
            )
        if self.top_k is not None and whole(self.top_k, "top_k") < 1:
            raise ValueError(f"top_k: expected at least 1 or None, found {self.top_k}")
        number(self.top_p, "top_p", "(0, 1]")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits [..., V] to the probabilities that are drawn from, float32 [..., V]."""
        scores = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self.top_p < 1:
            ascending, order = scores.sort(dim=-1)
            # A token goes when all tokens up to and with it, from the least likely on, weigh at most 1 - top_p.
            dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.top_p
            dropped[..., -1] = False
            scores = scores.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
        return scores.softmax(dim=-1)


class Sampler:
    """Chooses tokens: greedily without settings, by drawing with them.

    Attributes:
        sampling: the settings, or None for greedy decoding.
        generator: source of chance, on the CPU; None is torch's global one.
    """

    def __init__(self, sampling: Sampling | None = None, generator: torch.Generator | None = None):
        self.sampling, self.generator = sampling, generator

    @property
    def greedy(self) -> bool:
        return self.sampling is None

    def probabilities(self, logits: Tensor) -> Tensor:
        """[..., V] probabilities a token is drawn from. Greedy decoding has none: ask `greedy` first."""
        if self.sampling is None:
            raise ValueError("a greedy sampler draws from no distribution")
        return self.sampling.probabilities(logits)

    def draw(self, probabilities: Tensor) -> int:
        """One token from probabilities [V] (any positive sum): with `generate`'s seed the one that it draws."""
        return int(torch.multinomial(probabilities.cpu(), 1, generator=self.generator))

    def uniform(self, count: int) -> list[float]:
        """Numbers in [0, 1)."""
        return torch.rand(count, generator=self.generator, dtype=torch.float64).tolist()

    def choose(self, logits: Tensor) -> int:
        """The next token after logits [V]."""
        return int(logits.argmax()) if self.sampling is None else self.draw(self.probabilities(logits))


def pick(probabilities: Tensor, number: float) -> Tensor:
    """The token that a number in [0, 1) draws from probabilities [V] (any positive sum): int64 [1], on their device.

    It is where their running sum, in double precision, passes that share of the whole. The host waits for nothing, and
    numbers drawn on the CPU give the same tokens on every device up to rounding. A sum that is no positive number
    gives V, which is no token.
    """
    reached = probabilities.double().cumsum(dim=-1)
    return torch.searchsorted(reached, reached[-1:] * number, right=True)
