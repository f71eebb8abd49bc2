"""Draft trees: grown level by level where the drafter is least unsure, judged along one path (SpecInfer, EAGLE-2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from egptlib._likeliest import likeliest
from egptlib._whole import whole
from egptlib.decoding._drafters import Draft
from egptlib.decoding._lengths import FixedLength
from egptlib.decoding._sampling import Sampler


class TreeShape(FixedLength):
    """Drafts are trees: takes the place of a `gamma`.

    Args:
        size: tokens verified in one pass, at most.
        depth: tokens on one path, at most; as many passes of the drafter.
        width: tokens of one level that are drafted on; also children of one token, at most.
        min_confidence: tokens whose joint probability with their ancestors is below it stay out.

    Raises:
        ValueError: a number below 1, or no probability.
    """

    def __init__(self, size: int, depth: int, width: int, min_confidence: float = 0.0):
        shape = {"size": size, "depth": depth, "width": width}
        self.size, self.depth, self.width = (whole(value, f"tree: {name}", 1) for name, value in shape.items())
        super().__init__(self.size, min_confidence)


@runtime_checkable
class TreeDrafter(Protocol):
    """A drafter that can draft trees."""

    def propose_tree(self, answer: Sequence[int], shape: TreeShape, depth: int, sampler: Sampler) -> Draft:
        """A tree of a shape, at most `depth` deep, behind `answer`.

        Raises:
            ValueError: this one drafts chains alone; it is named.
        """
        ...


Read = Callable[[Sequence[int], Sequence[int]], Tensor]
"""Reads tokens as nodes, numbered in the order in which they are read, behind their parents (-1: the answer), in one
pass: logits [n, V]."""


def grow(first: Tensor, read: Read, shape: TreeShape, depth: int, sampler: Sampler, ends: frozenset[int]) -> Draft:
    """Grow a tree.

    Greedy: of each level the `width` nodes of the highest joint confidence are drafted on, and of all that was found
    the `size` best are kept (EAGLE-2, Li et al. 2024, 2406.16858, section 4). Sampling: how many children a node gets
    follows from what is known before they are drawn, and none is dropped afterwards: to choose among drawn tokens
    would bend their law. Children are drawn one after the other without replacement.

    Args:
        first: logits [V] behind the answer.
        ends: tokens behind which nothing is drafted.
    """
    tokens, parents, joint = list[int](), list[int](), list[float]()
    rows, logits, laws = list[int](), list[Tensor](), list[Tensor]()
    numbers: dict[int, int] = {}  # of the nodes that were read
    frontier, now = [-1], first[None]
    for level in range(min(depth, shape.depth)):
        law = sampler.probabilities(now) if not sampler.greedy else now.float().softmax(dim=-1)
        room = shape.width if sampler.greedy else min(shape.width, shape.size - len(tokens))
        children = likeliest(law, min(shape.width, law.shape[-1]))
        best, ids = torch.stack([law.gather(-1, children).double(), children.double()]).tolist()  # one transfer
        before = [joint[node] if node >= 0 else 1.0 for node in frontier]
        found = [
            (weight * p, row, int(token))
            for row, (weight, ps, own) in enumerate(zip(before, best, ids, strict=True))
            for p, token in zip(ps, own, strict=True)
            if weight * p >= shape.min_confidence and p > 0
        ]
        found.sort(key=lambda each: -each[0])
        if not sampler.greedy:
            counts = [sum(row == other for _, other, _ in found[:room]) for row in range(len(frontier))]
            found = [
                (before[row] * float(law[row, token]), row, token)
                for row, count in enumerate(counts)
                for token in draw_different(law[row], count, sampler)
            ]
        first_new = len(tokens)
        for weight, row, token in found:
            tokens.append(token)
            parents.append(frontier[row])
            joint.append(weight)
            rows.append(row + len(logits))
        logits += now
        laws += law
        grown = list(range(first_new, len(tokens)))[:room]
        frontier = [node for node in grown if tokens[node] not in ends]
        if not frontier or level + 1 == min(depth, shape.depth) or not _worth(joint, frontier, shape, sampler):
            break
        now = read([tokens[node] for node in frontier], [numbers.get(parents[node], -1) for node in frontier])
        numbers |= {node: len(numbers) + i for i, node in enumerate(frontier)}
    kept = list(range(len(tokens)))
    if sampler.greedy:  # stable: of equals the earlier, a parent before its child
        kept = sorted(sorted(kept, key=lambda node: -joint[node])[: shape.size])
    place = {node: i for i, node in enumerate(kept)} | {-1: -1}
    above = [place[parents[node]] for node in kept]
    return Draft(
        [tokens[node] for node in kept],
        [joint[node] for node in kept],
        None if sampler.greedy or not kept else torch.stack([laws[rows[node]] for node in kept]),
        torch.stack([logits[rows[node]] for node in kept]) if kept else None,
        parents=branching(above),
    )


def branching(parents: list[int]) -> list[int] | None:
    """The parents of a tree; None where each token follows the one before it."""
    return None if parents == list(range(-1, len(parents) - 1)) else parents


def _worth(joint: list[float], frontier: list[int], shape: TreeShape, sampler: Sampler) -> bool:
    """Whether a further level can hold a node that is kept."""
    if len(joint) < shape.size:
        return True
    return sampler.greedy and max(joint[node] for node in frontier) > sorted(joint, reverse=True)[shape.size - 1]


def draw_different(law: Tensor, count: int, sampler: Sampler) -> list[int]:
    """Tokens drawn one after the other without replacement, fewer where the law has no more."""
    law, drawn = law.clone(), list[int]()
    while len(drawn) < count and law.sum() > 0:
        drawn.append(sampler.draw(law))
        law[drawn[-1]] = 0
    return drawn


def walk(draft: Draft, logits: Tensor, sampler: Sampler) -> tuple[list[int], int]:
    """The nodes of a tree that are kept, from a root down, and the target's own token behind them.

    Greedy: the child that is the target's choice, as long as there is one (SpecInfer, Miao et al. 2023, 2305.09781,
    algorithm 2, VerifyGreedy). Sampling: multi-step speculative sampling (VerifyStochastic there): a child x is kept
    with probability min(1, p(x) / q(x)); after a refusal p becomes max(0, p - q), normalised, and the next child is
    tried. As children were drawn without replacement, q of the next one lacks x (recursive rejection sampling, Jeon et
    al. 2024, 2402.14160; Sequoia, Chen et al. 2024, 2402.12374).

    Args:
        draft: with `parents`; `probabilities` hold what a node was drawn from, had no sibling been drawn before it.
        logits: [n + 1, V] of the target, behind the answer and behind each node.
    """
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(draft.parents or ()):
        children.setdefault(parent, []).append(node)
    path, at = list[int](), -1
    choices = logits.argmax(dim=-1).tolist() if sampler.greedy else []
    while True:
        if sampler.greedy:
            token = choices[at + 1]
            kept = next((node for node in children.get(at, ()) if draft.tokens[node] == token), None)
        else:
            kept, p = _try(draft, children.get(at, []), sampler.probabilities(logits[at + 1]), sampler)
        if kept is None:
            return path, token if sampler.greedy else sampler.draw(p)
        path.append(kept)
        at = kept


def _try(draft: Draft, siblings: list[int], p: Tensor, sampler: Sampler) -> tuple[int | None, Tensor]:
    """Try siblings in the order in which they were drawn: the one that is kept, or what is left of p [V] without."""
    q = None if draft.probabilities is None or not siblings else draft.probabilities[siblings[0]].to(p, copy=True)
    for node in siblings:
        token = draft.tokens[node]
        if sampler.uniform(1)[0] * (1.0 if q is None else float(q[token])) < float(p[token]):
            return node, p
        rest = p.clone() if q is None else (p - q).clamp_min(0)
        rest[token] = 0  # refused: p is not above q there
        p = rest / rest.sum() if rest.sum() > 0 else p
        if q is not None:
            q[token] = 0
            q = q / q.sum().clamp_min(1e-30)
    return None, p
