"""Which tree to draft: from what is accepted by depth and rank, and what passes cost (Sequoia, Chen et al. 2024)."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from numpy import ndarray

from egptlib.metrics._costs import Costs

Acceptance = Float[ndarray, "depth rank"]


@dataclass(frozen=True)
class TreePlan:
    """A tree, and what a round with it is expected to give and to take.

    Attributes:
        parents: of each token, -1 for the answer, in order of falling value.
        ranks: which of its parent's children it is, by the drafter's probability, 0 the likeliest.
        depth: levels.
        width: tokens of one level that have children, or children of one token, whichever are more.
        least: share of rounds in which the least valuable token is accepted: what a token is worth that just pays.
        tokens: gained in a round on average, bonus included.
        seconds: of a round; 0 where no costs were given.
    """

    parents: tuple[int, ...]
    ranks: tuple[int, ...]
    depth: int
    width: int
    least: float
    tokens: float
    seconds: float = 0.0

    @property
    def size(self) -> int:
        return len(self.parents)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def best_tree(acceptance: Acceptance, size: int, depth: int | None = None) -> TreePlan:
    """The tree of so many tokens that has most of them accepted.

    A token is reached with the product of the acceptance along its path, and a tree gains the sum of these over its
    tokens (Sequoia, 2402.12374, section 3). No token is worth more than its parent, so the best tree is that of
    the most valuable tokens, which are taken one after the other; no dynamic program is needed for it.

    Args:
        acceptance: [d, r] is the share of rounds in which the target's token behind d accepted ones was the drafter's
            r-th likeliest.
        size: tokens at most; fewer where no others can be accepted.
        depth: levels at most; as many as are known when left out.

    Raises:
        ValueError: shares that are none, or add up to more than 1 at a depth; a size or depth below 1, or more levels
            than are known.
    """
    depth = len(acceptance) if depth is None else depth
    if (
        acceptance.ndim != 2
        or not ((acceptance >= 0) & (acceptance <= 1)).all()
        or (acceptance.sum(1) > 1 + 1e-6).any()
    ):
        raise ValueError("acceptance: expected shares [depth, rank] that add up to at most 1 at every depth")
    if size < 1 or not 1 <= depth <= len(acceptance):
        raise ValueError(f"tree: expected a size of at least 1 and 1 to {len(acceptance)} levels, got {size}, {depth}")
    waiting = [(-share, -1, 0, rank) for rank, share in enumerate(acceptance[0].tolist())]
    heapq.heapify(waiting)
    parents, ranks, levels, gained, value = list[int](), list[int](), list[int](), 0.0, -1.0
    while waiting and len(parents) < size and waiting[0][0] < 0:
        value, parent, level, rank = heapq.heappop(waiting)
        node, gained = len(parents), gained - value
        parents.append(parent)
        ranks.append(rank)
        levels.append(level)
        if level + 1 < depth:
            for child, share in enumerate(acceptance[level + 1].tolist()):
                heapq.heappush(waiting, (value * share, node, level + 1, child))
    width = max([*_inner(parents), *(rank + 1 for rank in ranks)], default=1)
    return TreePlan(tuple(parents), tuple(ranks), max(levels, default=-1) + 1, width, -value, 1.0 + gained)


def choose_tree(acceptance: Acceptance, costs: Costs, size: int = 64, depth: int | None = None) -> TreePlan:
    """The tree, among all sizes and depths, whose rounds give most tokens a second with the costs measured.

    A round takes a drafter pass a level, over the tokens of the level before that have children, and one target pass
    over the tree and the token before it. A chain is among them: `acceptance[:, :1]` allows nothing else.

    Args:
        acceptance: as in `best_tree`.
        size, depth: the largest to be looked at; no larger than the costs were measured for.

    Raises:
        ValueError: as `best_tree`.
    """
    plans = []
    deepest = len(acceptance) if depth is None else depth
    for levels in range(1, deepest + 1):
        for count in range(1, min(size, max(costs.verify, default=0)) + 1):
            plan = best_tree(acceptance, count, levels)
            if plan.size == count and plan.depth == levels:
                plans.append(_timed(plan, costs))
    return max(plans, key=lambda plan: plan.rate)


def _timed(plan: TreePlan, costs: Costs) -> TreePlan:
    widest = max(costs.drafter_passes, default=1)
    drafting = costs.drafter_step + sum(costs.drafter_pass_seconds(min(n, widest)) for n in _inner(plan.parents))
    seconds = drafting + costs.draft_overhead + costs.verify_seconds(plan.size) + costs.round_overhead
    return replace(plan, seconds=seconds)


def _inner(parents: Sequence[int]) -> list[int]:
    """By level, how many tokens have children."""
    levels = levels_of(parents)
    counts = Counter(levels[parent] for parent in set(parents) - {-1})
    return [counts[level] for level in sorted(counts)]


def levels_of(parents: Sequence[int]) -> list[int]:
    """How many tokens of the tree stand before each."""
    levels = list[int]()
    for parent in parents:
        levels.append(levels[parent] + 1 if parent >= 0 else 0)
    return levels
