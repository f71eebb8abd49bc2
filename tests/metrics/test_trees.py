"""The tree that is chosen, against all trees there are."""

import itertools

import numpy as np
import pytest

from egptlib.metrics import Costs, TreePlan, best_tree, choose_tree

SHARES = np.array([[0.6, 0.2, 0.1], [0.5, 0.4, 0.0], [0.9, 0.05, 0.0]])
COSTS = Costs(
    target_step=2.0,
    drafter_step=0.5,
    verify={0: 2.0, 4: 2.4, 8: 4.0, 30: 30.0},
    drafter_passes={1: 0.5, 2: 0.6, 9: 2.0},
    round_overhead=0.1,
)


def all_trees(depth: int) -> list[set[tuple[int, ...]]]:
    """Sets of nodes, each named by the ranks on its path, with every node's parent."""
    nodes = [path for n in range(1, depth + 1) for path in itertools.product(range(2), repeat=n)]
    subsets = itertools.chain.from_iterable(itertools.combinations(nodes, n) for n in range(1, len(nodes) + 1))
    return [set(s) for s in subsets if all(len(path) == 1 or path[:-1] in s for path in s)]


def gained(tree: set[tuple[int, ...]]) -> float:
    """Tokens of a round, by what happens on each way that the target can take."""
    return 1 + sum(np.prod([SHARES[d, r] for d, r in enumerate(path)]) for path in tree)


def named(plan: TreePlan) -> set[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = []
    for parent, rank in zip(plan.parents, plan.ranks, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), rank))
    return set(paths)


def seconds(tree: set[tuple[int, ...]]) -> float:
    inner = {path[:-1] for path in tree if len(path) > 1}
    levels = [sum(len(path) == n for path in inner) for n in range(1, 4)]
    passes = {1: 0.5, 2: 0.6, 3: 0.8, 4: 1.0}
    verify = np.interp(len(tree), [0, 4, 8, 30], [2.0, 2.4, 4.0, 30.0])
    return 0.5 + sum(passes[n] for n in levels if n) + float(verify) + 0.1


def test_the_most_valuable_tokens_are_the_best_tree() -> None:
    trees = all_trees(3)
    assert len(trees) > 500
    for size, depth in itertools.product(range(1, 9), range(1, 4)):
        plan = best_tree(SHARES[:, :2], size, depth)
        best = max(gained(t) for t in trees if len(t) <= size and max(map(len, t)) <= depth)
        assert plan.tokens == pytest.approx(best) == pytest.approx(gained(named(plan)))
        assert plan.least == pytest.approx(min(gained({path}) - 1 for path in named(plan)))
        assert plan.size <= size and plan.depth == max(map(len, named(plan))) <= depth
    assert best_tree(SHARES, 40).size < 40  # what is never accepted stays out


def test_the_tree_is_chosen_from_the_cost_curve() -> None:
    """Its tokens a second are those of the best of all trees; dear verification makes it small, cheap drafting deep."""
    plan = choose_tree(SHARES[:, :2], COSTS)
    assert plan.seconds == pytest.approx(seconds(named(plan)))
    found = [gained(t) / seconds(t) for t in all_trees(3)]
    # The search looks at the most accepted tree of each size and depth; a dearer shape of it may lose a little.
    assert max(found) >= plan.rate > 0.995 * max(found)
    chain = choose_tree(SHARES[:, :1], COSTS)
    assert chain.width == 1 and chain.parents == tuple(range(-1, chain.size - 1)) and chain.rate < plan.rate
    dear = Costs(target_step=2.0, drafter_step=0.5, verify={n: 2.0 + 3 * n for n in range(9)})
    assert choose_tree(SHARES, dear).size == 1


@pytest.mark.parametrize("shares", [np.array([[0.7, 0.4]]), np.array([[1.2]]), np.array([[-0.1]])])
def test_shares_that_are_none_are_refused(shares: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected shares"):
        best_tree(shares, 3)


@pytest.mark.parametrize(("size", "depth"), [(0, 1), (3, 0), (3, 4)])
def test_impossible_trees_are_refused(size: int, depth: int) -> None:
    with pytest.raises(ValueError, match="expected a size of at least 1 and 1 to 3 levels"):
        best_tree(SHARES, size, depth)
