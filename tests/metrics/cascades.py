"""Replay of cascades, for the tests of `decoding.CascadeDrafter`: nothing records what it reads but they do.

In a cascade a drafter is verified by a middle model, and what that keeps is the target's draft. With greedy decoding
the middle model proposes its own greedy tokens, whoever drafted for it: what the *target* accepts is `replay` of the
middle model's matches. How many passes the *middle* model takes depends on where the drafter agrees with it, and it
drafts on after its first token that the target refuses, off the target's path. So it is recorded per depth: from each
position of the target's answer, the middle model's own greedy continuation, and at each depth whether the drafter
agrees with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from egptlib._whole import whole
from egptlib.metrics import Replay, replay
from egptlib.metrics._replay import Lengths, Matches, check_replay, integers


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
