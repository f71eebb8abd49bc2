"""How many tokens to draft: a fixed number, as long as the drafter is sure, or what the measured costs favour."""

from __future__ import annotations

from egptlib._whole import number, whole
from egptlib.metrics import Costs, DraftLength

__all__ = ["AdaptiveLength", "DraftLength", "FixedLength"]


class FixedLength:
    """Always gamma tokens.

    Args:
        gamma: at least 0.
        min_confidence: the draft ends with the first token whose probability is below it.
    """

    def __init__(self, gamma: int, min_confidence: float = 0.0):
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence: expected a probability, found {min_confidence}")
        self.gamma, self.min_confidence = whole(gamma, "gamma", 0), min_confidence

    def start(self) -> None:
        """Nothing to forget."""

    def pays(self, max_new_tokens: int) -> bool:
        return self.gamma > 0

    def count(self) -> int:
        return self.gamma

    def stop(self, confidence: float) -> bool:
        return confidence < self.min_confidence

    def observe(self, drafted: int, accepted: int) -> None:
        """Nothing to learn."""


class AdaptiveLength:
    """gamma from the measured cost curve and from what was accepted; 0, plain decoding, where drafting would not pay.

    A draft token is taken to be accepted with probability alpha (given those before it), so that gamma tokens give
    (1 - alpha^(gamma + 1)) / (1 - alpha) tokens a round (Leviathan et al. 2023, equation 1) in the seconds of gamma
    drafter steps and one target pass. alpha is learned while decoding, from a prior that past answers update.

    Args:
        costs: measured on this machine.
        gamma: the most that is drafted.
        alpha: expected acceptance rate to begin with; it weighs as much as `weight` tokens seen.
        min_confidence: the draft ends with the first token whose probability is below it.
        margin: how much faster than plain decoding a round must promise to be, as a share.
    """

    def __init__(
        self,
        costs: Costs,
        gamma: int = 8,
        alpha: float = 0.7,
        weight: float = 6.0,
        min_confidence: float = 0.0,
        margin: float = 0.02,
    ):
        if whole(gamma, "gamma") < 1 or not 0 < alpha < 1:
            raise ValueError(f"expected gamma of at least 1 and alpha in (0, 1), found {gamma} and {alpha}")
        self.costs, self.gamma, self.weight = costs, gamma, number(weight, "weight", "(0, inf)")
        self.min_confidence = number(min_confidence, "min_confidence", "[0, 1]")
        self.margin = number(margin, "margin", "(-inf, inf)")
        self._prior = alpha
        self._kept, self._reached = alpha * weight, weight
        self._answer_length: float | None = None
        self._length = 0
        self._seconds = [
            g * costs.drafter_step + costs.verify_seconds(g) + (costs.round_overhead if g else 0.0)
            for g in range(gamma + 1)
        ]

    @property
    def alpha(self) -> float:
        """The acceptance rate as it is believed to be now."""
        return self._kept / self._reached

    def start(self) -> None:
        if self._length:
            # A slow mean over answers; a single bad one must not end drafting for good.
            self._prior += 0.2 * (self.alpha - self._prior)
            mean = self._answer_length
            self._answer_length = self._length if mean is None else mean + 0.2 * (self._length - mean)
        self._kept, self._reached, self._length = self._prior * self.weight, self.weight, 0

    def pays(self, max_new_tokens: int) -> bool:
        """Whether reading the prompt with the drafter is won back over an answer as long as those before it."""
        expected = min(max_new_tokens, self._answer_length or max_new_tokens)
        saved = expected * (self._seconds[0] - 1 / max(self._rate(g) for g in range(1, self.gamma + 1)))
        return saved > self.costs.drafter_prefill  # reading from disk is not charged: plain decoding waits for it too

    def count(self) -> int:
        best = max(range(1, self.gamma + 1), key=self._rate)
        return best if self._rate(best) > (1 + self.margin) / self._seconds[0] else 0

    def _rate(self, gamma: int) -> float:
        """Tokens a second that rounds of gamma promise."""
        alpha = min(self.alpha, 0.999)
        return (1 - alpha ** (gamma + 1)) / (1 - alpha) / self._seconds[gamma]

    def stop(self, confidence: float) -> bool:
        return confidence < self.min_confidence

    def observe(self, drafted: int, accepted: int) -> None:
        self._kept += accepted
        self._reached += accepted + (accepted < drafted)
        self._length += accepted + 1
