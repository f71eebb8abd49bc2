"""Replay of speculative decoding on recorded matches: exact for greedy decoding, with no model run again.

Feed the drafter the target's own answer and note at each position whether its next token is the target's. A draft
that starts at position i is then accepted up to the first mismatch at or after i, whatever gamma is: the running
product of the matches from i on, summed (greedy case of Leviathan et al. 2023, algorithm 1). One recorded pass thus
holds every schedule, for a drafter whose next token depends on the tokens alone.

Of draft trees, what is drafted off the target's path decides which branches are kept: matches do not tell what a tree
would have had accepted, so the branches behind every token have to have been recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from egptlib.metrics._trees import levels_of

Matches = Bool[ndarray, "sample position"]
Lengths = Int[ndarray, "sample"]


@dataclass(frozen=True)
class Replay:
    """What the rounds of every sample would have been, at each gamma.

    Attributes:
        gammas: int [gamma].
        drafted: integers [round, sample, gamma] (int16 where all fits into it), draft tokens a target pass had to
            judge; -1 after the last round. What the drafter writes after its first wrong token lies on a path that was
            not recorded: only where it would have stopped there of its own accord (`stops`, given by position) is this
            figure an estimate.
        accepted: the same, how many of them were kept (0 after the last round). Exact.
        gained: the same, tokens of the answer that came out of it. Exact.
    """

    gammas: Int[ndarray, "gamma"]
    drafted: Int[ndarray, "round sample gamma"]
    accepted: Int[ndarray, "round sample gamma"]
    gained: Int[ndarray, "round sample gamma"]

    @classmethod
    def from_rounds(cls, runs: Sequence[Sequence[tuple[int, int, int]]], gamma: int) -> "Replay":
        """Return what runs did, given as (drafted, accepted, gained) of their rounds, as if it had been replayed.

        Args:
            runs: one entry a sample.
            gamma: what they drafted at most.
        """
        largest = max((number for rounds in runs for numbers in rounds for number in numbers), default=0)
        table = np.zeros((3, max(map(len, runs), default=0), len(runs), 1), dtype=integers(largest))
        table[0] = -1
        for s, rounds in enumerate(runs):
            if rounds:
                table[:, : len(rounds), s, 0] = np.array(rounds).T
        return cls(np.array([gamma]), table[0], table[1], table[2])

    @cached_property
    def passes(self) -> Int[ndarray, "sample gamma"]:
        """Target passes after the prefill."""
        return (self.drafted >= 0).sum(axis=0)

    @cached_property
    def num_drafted(self) -> Int[ndarray, "sample gamma"]:
        """Draft tokens of each sample, all rounds together."""
        return np.maximum(self.drafted, 0).sum(axis=0, dtype=np.int64)

    @cached_property
    def num_accepted(self) -> Int[ndarray, "sample gamma"]:
        """Those that were kept."""
        return self.accepted.sum(axis=0, dtype=np.int64)

    @cached_property
    def num_accepted_tokens(self) -> Float[ndarray, "gamma"]:
        """Draft tokens accepted per verification, bonus not counted, over all samples."""
        return self.num_accepted.sum(axis=0) / np.maximum(self.passes.sum(axis=0), 1)

    @cached_property
    def mean_acceptance_length(self) -> Float[ndarray, "gamma"]:
        """Tokens per target pass, bonus included, over all samples; 1.0 for plain decoding."""
        return self.gained.sum(axis=(0, 1), dtype=np.int64) / np.maximum(self.passes.sum(axis=0), 1)

    def histogram(self, gamma: int) -> dict[int, int]:
        """Number of verifications by accepted count, at one gamma.

        Raises:
            ValueError: this gamma was not replayed.
        """
        g = self._index(gamma)
        counts = np.bincount(self.accepted[..., g][self.drafted[..., g] >= 0])
        return {k: int(count) for k, count in enumerate(counts) if count}

    def rounds(self, sample: int, gamma: int) -> list[tuple[int, int, int]]:
        """(drafted, accepted, gained) of each round of one sample. Errors as `histogram`."""
        g = self._index(gamma)
        made = self.drafted[:, sample, g] >= 0
        columns = (self.drafted, self.accepted, self.gained)
        return list(zip(*(column[made, sample, g].tolist() for column in columns)))

    def _index(self, gamma: int) -> int:
        found = np.flatnonzero(self.gammas == gamma)
        if not found.size:
            raise ValueError(f"gamma {gamma} was not replayed, only {self.gammas.tolist()}")
        return int(found[0])


def replay(
    match: Matches,
    lengths: Lengths,
    gammas: Sequence[int] | Int[ndarray, "gamma"],
    *,
    limit: int | None = None,
    free: int | Int[ndarray, "sample"] | None = None,
    then_plain: bool = False,
    stops: Matches | Int[ndarray, "sample position"] | None = None,
    skip: Bool[ndarray, "sample"] | Matches | None = None,
) -> Replay:
    """Replay greedy speculative decoding of recorded answers, all gammas at once.

    The prefill of the target gives token 0, unless there are free drafts. Every round drafts up to gamma tokens after
    what is there, reads them in one target pass, keeps those before the first mismatch, and gains one more token from
    the target.

    Args:
        match: whether the drafter's next token on the target's path is the target's. Only positions below a
            sample's length are read.
        lengths: tokens of each answer, its end token included.
        gammas: each 0 (plain decoding) or more.
        limit: most tokens an answer may have. Near it the loop drafts less: no more than fit before the last token.
            None: an answer may have been longer than any here.
        free: tokens the drafter wrote while the target read its prompt, from token 0 on: one pass judges them all
            (the prefill's own logits the first) before the rounds begin. 0: there are none, and token 0 comes from
            the prefill. One number, or one a sample; cut to `limit` - 1, so that the bonus token has a place.
        then_plain: after the free drafts decode plainly (how the recorded `LVL` runs did it).
        stops: where the drafter ends its draft of its own accord, with this token as the last: its confidence fell
            below a threshold, or the token ends an answer. Whole numbers instead: how many tokens a draft from each
            position has at most, for a drafter recorded ahead of every position; `Replay.drafted` is exact then.
        skip: samples, or positions, at which nothing is drafted. Neither this nor `stops` concerns the free drafts.

    Raises:
        ValueError: shapes or dtypes that do not fit, a gamma below 0, a length of 0 or beyond `limit` or the columns.

    Example:
        >>> import numpy as np
        >>> match = np.array([[True, True, False, True, True, True]])  # the drafter's next token is the target's
        >>> result = replay(match, np.array([6]), [0, 2, 5])
        >>> result.mean_acceptance_length  # tokens per target pass at each gamma; 0 is plain decoding
        array([1. , 2.5, 2.5])
    """
    chosen = check_replay(match, lengths, gammas, limit)
    samples, width = match.shape
    for name, array, kinds in (("stops", stops, "biu"), ("skip", skip, "b")):
        if array is not None and array.dtype.kind not in kinds:
            raise ValueError(f"{name}: expected bool{' or integers' if 'i' in kinds else ''}, got {array.dtype}")
    # One column more than the longest answer, so that a position just past the end can be looked up.
    run = _runs(match, lengths)
    stop_after = None if stops is None else _distance(stops, lengths)
    if skip is not None and skip.ndim == 1:
        skip = skip[:, None].repeat(width, axis=1)
    idle = None if skip is None else np.pad(skip, ((0, 0), (0, 1)))

    shape = (samples, chosen.size)
    row = np.repeat(np.arange(samples), chosen.size)
    wanted = np.zeros(row.size, dtype=np.int64) if then_plain else np.tile(chosen, samples)
    length = lengths[row]
    stride = width + 1
    position = np.ones(samples * chosen.size, dtype=np.int64)
    rounds: list[ndarray] = []  # each [3, sample, gamma]: drafted, accepted, gained

    first: ndarray | None = None
    if free is not None:
        written = np.broadcast_to(_whole(free, "free"), (samples,))
        if (written < 0).any():
            raise ValueError(f"free: expected 0 or more tokens, got {int(written.min())}")
        first = written[row] if limit is None else np.minimum(written[row], limit - 1)
        position[first > 0] = 0

    kind = integers(max(width, chosen.max(initial=0), 0 if first is None else first.max(initial=0)))
    active = np.flatnonzero(position < length)
    while active.size:
        at = position[active]
        place = row[active] * stride + at
        drafted = wanted[active] if first is None else np.where(at == 0, first[active], wanted[active])
        if limit is not None:
            drafted = np.minimum(drafted, limit - at - 1)
        if stop_after is not None:
            drafted = np.where(at == 0, drafted, np.minimum(drafted, stop_after.ravel()[place]))
        if idle is not None:
            drafted = np.where(idle.ravel()[place] & (at > 0), 0, drafted)
        accepted = np.minimum(run.ravel()[place], drafted)
        gained = np.minimum(accepted + 1, length[active] - at)
        judged = np.zeros((3, row.size), dtype=kind)
        judged[0] = -1
        judged[:, active] = drafted, accepted, gained
        rounds.append(judged.reshape(3, *shape))
        position[active] = at + gained
        active = active[at + gained < length[active]]

    table = np.stack(rounds, axis=1) if rounds else np.zeros((3, 0, *shape), dtype=kind)
    return Replay(chosen, table[0], table[1], table[2])


def expected_accepted(
    overlap: Float[ndarray, "sample position"],
    lengths: Lengths,
    gammas: Sequence[int] | Int[ndarray, "gamma"],
    ratio: Float[ndarray, "sample position"] | None = None,
) -> Float[ndarray, "gamma sample position"]:
    """Return the accepted length to be expected of a draft sampled from each position on (lossless rejection).

    A token drawn from the drafter is kept with probability sum(min(p, q)), its overlap with the target's
    distribution (Leviathan et al. 2023, corollary 3.6). Of a draft of gamma from position i,
    E = sum over k of P(the first k are kept).

    Args:
        overlap: sum(min(p, q)) at each position of the recorded path.
        ratio: min(1, q(x) / p(x)) at the recorded token x. With it the figure is right on average over paths drawn
            from the target: kept tokens are distributed as min(p, q), not as p, and `ratio` weighs the path
            accordingly (the last factor of each product stays the overlap). Without it P(first k) is the product
            of k overlaps, which is right where a position's overlap does not depend on which token was kept.

    Returns:
        float64, 0 at and beyond a sample's length; a draft that would pass the end counts up to it.

    Raises:
        ValueError: as `replay`, or an overlap outside [0, 1].
    """
    inside = np.arange(overlap.shape[1]) < np.asarray(lengths)[:, None]
    chosen = check_replay(inside, lengths, gammas, None)
    values = np.where(inside, overlap, 0.0).astype(np.float64)
    weights = values if ratio is None else np.where(inside, ratio, 0.0).astype(np.float64)
    for name, array in (("overlap", values), ("ratio", weights)):
        if not ((array >= 0) & (array <= 1 + 1e-6)).all():
            raise ValueError(f"{name}: expected numbers in [0, 1]")
    width = overlap.shape[1]
    total = np.zeros_like(values)
    path = np.ones_like(values)  # probability weight of the k tokens from each position on
    by_gamma = np.zeros((chosen.size, *values.shape))
    for k in range(int(chosen.max(initial=0))):
        if k >= width:
            by_gamma[chosen > k] = total
            break
        total = total.copy()
        total[:, : width - k] += path[:, : width - k] * values[:, k:]
        path[:, : width - k] *= weights[:, k:]
        by_gamma[chosen == k + 1] = total
    return by_gamma


def _runs(match: ndarray, lengths: ndarray) -> ndarray:
    """Return the matches in a row from each position on, int64 [sample, position + 1]."""
    inside = np.arange(match.shape[1]) < lengths[:, None]
    return _until(~(match & inside))


def _distance(stops: ndarray, lengths: ndarray) -> ndarray:
    """Return how many tokens a draft from each position has, the one it stops after included."""
    inside = np.arange(stops.shape[1]) < lengths[:, None]
    unlimited = np.iinfo(np.int32).max
    if stops.dtype != bool:
        if (stops[inside] < 1).any():
            raise ValueError("stops: expected drafts of 1 or more tokens from each position")
        return np.pad(stops.astype(np.int64), ((0, 0), (0, 1)), constant_values=unlimited)
    reached = _until(stops & inside) + 1
    none_left = np.cumsum((stops & inside)[:, ::-1], axis=1)[:, ::-1] == 0
    reached[:, :-1][none_left] = unlimited
    reached[:, -1] = unlimited
    return reached


def _until(event: ndarray) -> ndarray:
    """Return the distance from each position to the next event (the end counts as one), one column more."""
    width = event.shape[1]
    places = np.where(event, np.arange(width), width)
    following = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]
    distance = np.zeros((event.shape[0], width + 1), dtype=np.int64)
    distance[:, :-1] = following - np.arange(width)
    return distance


def integers(largest: Any) -> np.dtype[Any]:
    """The least integers, of 16 bits or more, that hold numbers so large."""
    return np.promote_types(np.int16, np.min_scalar_type(-int(largest) - 1))


def check_replay(match: Any, lengths: Any, gammas: Any, limit: int | None) -> ndarray:
    """Return the gammas as int64 [gamma]; ValueError where they, or what is replayed, are not as `replay` says."""
    for name, array, kinds in (("match", match, "b"), ("lengths", lengths, "iu")):
        if not isinstance(array, ndarray) or array.dtype.kind not in kinds:
            found = getattr(array, "dtype", type(array).__name__)
            raise ValueError(f"{name}: expected a numpy array of {'bool' if kinds == 'b' else 'integers'}, got {found}")
    gammas = _whole(gammas, "gammas")
    samples, width = match.shape
    if lengths.shape != (samples,):
        raise ValueError(f"lengths: expected one of each of the {samples} samples, got {list(lengths.shape)}")
    if samples and not (lengths.min() >= 1 and lengths.max() <= width):
        raise ValueError(
            f"lengths: expected between 1 and {width} (the columns), got {lengths.min()} to {lengths.max()}"
        )
    if limit is not None and samples and lengths.max() > limit:
        raise ValueError(f"limit {limit}: an answer has {lengths.max()} tokens")
    if gammas.ndim != 1 or (gammas < 0).any():
        raise ValueError(f"gammas: expected a list of numbers of 0 or more, got {gammas.tolist()}")
    return gammas


def _whole(values: Any, name: str) -> ndarray:
    numbers = np.asarray(values)
    if numbers.size and numbers.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected whole numbers, got {numbers.dtype}")
    return numbers.astype(np.int64)


class Branches(NamedTuple):
    """What a drafter grew behind some tokens, nothing pruned but by confidence.

    Attributes:
        tokens: their ids, in the order in which they were found, level by level.
        parents: the one that each follows, -1 for the answer.
        confidence: of each, joint with all before it on its path.
    """

    tokens: list[int]
    parents: list[int]
    confidence: list[float]

    def pruned(self, size: int, depth: int, min_confidence: float) -> list[int]:
        """The numbers of the `size` most confident of so many levels, none below a confidence; of equals the first
        found (EAGLE-2, Li et al. 2024, 2406.16858, section 4)."""
        sure = self.confidence
        kept = [n for n, level in enumerate(levels_of(self.parents)) if level < depth and sure[n] >= min_confidence]
        return sorted(kept, key=lambda node: -sure[node])[:size]


def replay_trees(
    answers: Sequence[Sequence[int]],
    branches: Sequence[Sequence[Branches]],
    size: int,
    depth: int,
    *,
    min_confidence: float = 0.0,
    limit: int | None = None,
) -> Replay:
    """Replay greedy decoding of recorded answers with trees of one shape. The prefill of the target gives token 0.

    Args:
        answers: the target's own, one a sample, end token included.
        branches: of each sample and position, what was grown behind the tokens before it, as wide as the trees
            that are asked for and at least as deep, down to their least confidence. Those at position 0 are not read.
        size, depth, min_confidence: as in `decoding.TreeShape`.
        limit: as in `replay`.

    Returns:
        Rounds at the one gamma `size`, all three figures exact. Not for `CostModel`, which counts a drafter step a
        token: a tree takes a pass a level.

    Raises:
        ValueError: a size or depth below 1; not one answer of `Branches` a sample, or not one a token.
    """
    if size < 1 or depth < 1:
        raise ValueError(f"tree: expected a size and a depth of at least 1, got {size} and {depth}")
    runs = []
    for s, (answer, grown) in enumerate(zip(answers, branches, strict=True)):
        if len(grown) != len(answer):
            raise ValueError(f"branches: expected one for each of the {len(answer)} tokens of {s}, got {len(grown)}")
        rounds, at = list[tuple[int, int, int]](), 1
        while at < len(answer):
            deepest = depth if limit is None else min(depth, limit - at - 1)
            tree = grown[at]
            kept = tree.pruned(size, deepest, min_confidence)
            below = {(tree.parents[node], tree.tokens[node]): node for node in kept}
            node, accepted = -1, 0
            while at + accepted < len(answer) and (node, answer[at + accepted]) in below:
                node, accepted = below[node, answer[at + accepted]], accepted + 1
            gained = min(accepted + 1, len(answer) - at)
            rounds.append((len(kept), accepted, gained))
            at += gained
        runs.append(rounds)
    return Replay.from_rounds(runs, size)
