"""Replay of drafts whose length follows from what was accepted before."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from egptlib.metrics._replay import Lengths, Matches, Replay, check_replay


@runtime_checkable
class DraftLength(Protocol):
    """Decides round by round how much is drafted; sees only what is drafted, so sampling stays lossless.

    Attributes:
        gamma: the most it will ever ask for.
    """

    gamma: int

    def start(self) -> None:
        """A new answer begins."""
        ...

    def pays(self, max_new_tokens: int) -> bool:
        """Whether drafting is worth the drafter's reading the prompt at all; asked before it does."""
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


def replay_policy(
    match: Matches,
    lengths: Lengths,
    policy: DraftLength,
    *,
    limit: int,
    confidence: Float[ndarray, "sample position"] | None = None,
    ends: Matches | None = None,
) -> tuple[Replay, Bool[ndarray, "sample"]]:
    """Replay greedy decoding under a policy, sample after sample, since it may learn from one for the next.

    Args:
        match, lengths: as in `replay`; token 0 comes from the prefill.
        policy: asked what the loop would ask it, in the same order. It is left as a run would leave it.
        limit: most tokens an answer may have.
        confidence: the drafter's at each position of the target's path; 1 where left out.
        ends: where the drafter's token ends an answer, and so its draft.

    Returns:
        The rounds, with one gamma, the policy's largest; and at which samples the drafter read its prompt.

    Raises:
        ValueError: as `replay`.
    """
    check_replay(match, lengths, [policy.gamma], limit)
    kept: list[list[tuple[int, int, int]]] = []
    reads = np.zeros(len(lengths), dtype=bool)
    for s, length in enumerate(lengths.tolist()):
        reads[s] = policy.pays(limit)
        if reads[s]:
            policy.start()
        rounds, at = list[tuple[int, int, int]](), 1
        while at < length:
            wanted = min(policy.count(), limit - at - 1) if reads[s] else 0
            drafted = accepted = 0
            while drafted < wanted:
                place = at + drafted
                accepted += bool(accepted == drafted and place < length and match[s, place])
                drafted += 1
                inside = place < length
                sure = 1.0 if confidence is None or not inside else float(confidence[s, place])
                if policy.stop(sure) or (ends is not None and inside and ends[s, place]):
                    break
            gained = min(accepted + 1, length - at)
            if reads[s]:
                policy.observe(drafted, accepted)
            rounds.append((drafted, accepted, gained))
            at += gained
        kept.append(rounds)
    return Replay.from_rounds(kept, policy.gamma), reads
