"""Replay of drafts whose length follows from what was accepted before, and of cascades.

In a cascade a drafter is verified by a middle model, and what that keeps is the target's draft. With greedy decoding
the middle model proposes its own greedy tokens, whoever drafted for it: what the *target* accepts is `replay` of the
middle model's matches. How many passes the *middle* model takes depends on where the drafter agrees with it, and it
drafts on after its first token that the target refuses, off the target's path. So it is recorded per depth: from each
position of the target's answer, the middle model's own greedy continuation, and at each depth whether the drafter
agrees with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from egptlib._whole import whole
from egptlib.metrics._replay import Lengths, Matches, Replay, check_replay, integers, replay


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


@dataclass(frozen=True)
class CascadeReplay:
    """What both verifications of a cascade would have been, at each gamma of the target's.

    Attributes:
        target: the target's rounds; its `drafted` tokens are the middle model's.
        passes: integers [round, sample, gamma] (int16 where all fits into it), passes of the middle model in each
            round of the target; 0 where it drafted nothing.
        drafted: the same, tokens the drafter was asked for in them. It may have written fewer,
            where it ended an answer that the middle model went on with.
        accepted: the same, of those, kept by the middle model.
    """

    target: Replay
    passes: Int[ndarray, "round sample gamma"]
    drafted: Int[ndarray, "round sample gamma"]
    accepted: Int[ndarray, "round sample gamma"]


def replay_cascade(
    match: Matches,
    agree: Bool[ndarray, "sample position depth"],
    lengths: Lengths,
    gammas: Sequence[int] | Int[ndarray, "gamma"],
    inner_gamma: int,
    *,
    limit: int | None = None,
    reach: Int[ndarray, "sample position"] | None = None,
) -> CascadeReplay:
    """Replay greedy decoding with drafter -> middle -> target, lossless at both levels (`decoding.CascadeDrafter`).

    Args:
        match: whether the middle model's next token on the target's path is the target's.
        agree: at [s, i, k], the middle model's greedy continuation of the target's first i tokens, k tokens on:
            whether the drafter's next token is the middle's. For a pair that was recorded along the target's path only,
            `agreement_ahead` makes an estimate of it.
        lengths, gammas, limit: as in `replay`; gammas are the tokens that the target verifies at a time.
        inner_gamma: tokens that the middle model verifies at a time.
        reach: how many tokens the middle model writes from each position until it ends its answer, that token
            included. None: it never does.

    Raises:
        ValueError: as `replay`, an inner gamma below 0, or an `agree` that lacks depths.
    """
    chosen = check_replay(match, lengths, gammas, limit)
    needed = int(chosen.max(initial=1)) - 1  # the last token of a draft is always the middle model's own
    if agree.shape[:2] != match.shape or agree.shape[2] < needed:
        raise ValueError(f"agree: expected {[*match.shape, needed]} or deeper, got {list(agree.shape)}")
    if agree.dtype != bool:
        raise ValueError(f"agree: expected bool, got {agree.dtype}")
    whole(inner_gamma, "inner_gamma", 0)
    outer = replay(match, lengths, chosen, limit=limit, stops=reach)
    counts = np.zeros((3, *outer.drafted.shape), dtype=integers(chosen.max(initial=0)))
    if not needed or not outer.drafted.size:  # a draft of one token is one pass
        counts[0] = outer.drafted > 0
        return CascadeReplay(outer, *counts)

    kept = _kept_ahead(agree[:, :, :needed])
    place = np.nonzero(outer.drafted > 0)
    start = 1 + np.cumsum(outer.gained, axis=0, dtype=np.int64) - outer.gained  # tokens known when a round begins
    row, at, count = place[1], start[place], outer.drafted[place].astype(np.int64)
    # What the target asked for: the middle model may end its answer before, but the drafter is asked all the same.
    asked = chosen[place[2]] if limit is None else np.minimum(chosen[place[2]], limit - at - 1)
    depth = np.zeros(count.size, dtype=np.int64)
    passes, drafted, accepted = np.zeros((3, count.size), dtype=np.int64)
    active = np.arange(count.size)
    while active.size:
        d = depth[active]
        width = np.minimum(inner_gamma, asked[active] - d - 1)
        found = np.minimum(kept[row[active], at[active], d], width)
        passes[active] += 1
        drafted[active] += width
        accepted[active] += found
        depth[active] = d + found + 1
        active = active[depth[active] < count[active]]
    for table, values in zip(counts, (passes, drafted, accepted)):
        table[place] = values
    return CascadeReplay(outer, *counts)


def agreement_ahead(agree: Matches, depth: int) -> Bool[ndarray, "sample position depth"]:
    """Estimate the agreement by depth from the agreement along the target's path, for `replay_cascade`.

    Exact until the middle model leaves that path; from there on the drafter is taken to agree where it does at the
    same position of the path. False beyond the columns.
    """
    padded = np.pad(agree, ((0, 0), (0, max(depth, 1) - 1)))
    return np.lib.stride_tricks.sliding_window_view(padded, max(depth, 1), axis=1)[..., :depth]


def _kept_ahead(agree: ndarray) -> ndarray:
    """Return the agreements in a row from each depth on, [sample, position, depth + 1]; 0 at the last."""
    kept = np.zeros((*agree.shape[:2], agree.shape[2] + 1), dtype=integers(agree.shape[2]))
    for k in reversed(range(agree.shape[2])):
        kept[..., k] = np.where(agree[..., k], kept[..., k + 1] + 1, 0)
    return kept
