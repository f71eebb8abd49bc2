"""How many tokens to draft: a fixed number, or as long as the drafter is sure."""

from __future__ import annotations

from typing import Protocol


class DraftLength(Protocol):
    """Decides round by round how much is drafted; sees only what is drafted, so sampling stays lossless.

    Attributes:
        gamma: the most it will ever ask for.
    """

    gamma: int

    def start(self) -> None:
        """A new answer begins."""
        ...

    def count(self) -> int:
        """Tokens to draft at most in the next round; 0 skips drafting in it."""
        ...

    def stop(self, confidence: float) -> bool:
        """Whether the draft ends with the token of this confidence."""
        ...

    def observe(self, drafted: int, accepted: int) -> None:
        """A round is over."""
        ...


class FixedLength:
    """Always gamma tokens.

    Args:
        gamma: at least 0.
        min_confidence: the draft ends with the first token whose probability is below it.
    """

    def __init__(self, gamma: int, min_confidence: float = 0.0):
        if gamma < 0:
            raise ValueError(f"gamma: expected at least 0, found {gamma}")
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence: expected a probability, found {min_confidence}")
        self.gamma, self.min_confidence = gamma, min_confidence

    def start(self) -> None:
        """Nothing to forget."""

    def count(self) -> int:
        return self.gamma

    def stop(self, confidence: float) -> bool:
        return confidence < self.min_confidence

    def observe(self, drafted: int, accepted: int) -> None:
        """Nothing to learn."""
