"""Replay of greedy decoding with draft trees, exact where the branches behind every token of an answer were recorded.

What is drafted off the target's path decides which of its branches are kept, so that matches along the path do not
tell what a tree would have had accepted: the branches have to be there.
"""

from collections.abc import Sequence
from typing import NamedTuple

from egptlib.metrics._replay import Replay
from egptlib.metrics._trees import levels_of


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
