"""Acceptance rules: how many draft tokens a target pass keeps, and which token follows them. Here the lossless one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from egptlib.decoding._drafters import Draft
from egptlib.decoding._sampling import Sampler
from egptlib.decoding._trees import walk


class Verdict(NamedTuple):
    """`accepted` draft tokens are kept, and `token` (correction or bonus) follows them.

    Of a tree those numbered by `path` are kept, root first; None: the first ones of a chain.
    """

    accepted: int
    token: int
    path: Sequence[int] | None = None


class Rule(Protocol):
    """Decides about a draft.

    Attributes:
        name: how reports call it.
        lossless: whether the output (greedy) or its distribution (sampling) stays the target's own.
    """

    name: str
    lossless: bool

    def __call__(self, draft: Draft, logits: Tensor, hidden: Tensor, sampler: Sampler) -> Verdict:
        """Judge a draft of n tokens.

        Args:
            draft: what was proposed.
            logits: [n + 1, V] of the target; row i judges draft token i, the last row gives the bonus token.
            hidden: [n + 1, H], the target's last hidden states that gave them.
            sampler: how the target chooses.
        """
        ...


class Lossless:
    """Greedy: keep tokens while they are the target's own choice. Sampling: rejection (Leviathan et al. 2023).

    Trees as in SpecInfer, see `walk`.
    """

    name = "lossless"
    lossless = True

    def __call__(self, draft: Draft, logits: Tensor, hidden: Tensor, sampler: Sampler) -> Verdict:
        if draft.parents is not None:
            path, token = walk(draft, logits, sampler)
            return Verdict(len(path), token, path)
        if sampler.greedy:
            return match_choices(draft.tokens, logits.argmax(dim=-1).tolist())
        return reject(draft, sampler.probabilities(logits), sampler)


def match_choices(tokens: list[int], choices: list[int]) -> Verdict:
    """Keep draft tokens up to the first that differs from the target's choice; that choice follows."""
    accepted = 0
    while accepted < len(tokens) and tokens[accepted] == choices[accepted]:
        accepted += 1
    return Verdict(accepted, choices[accepted])


def reject(draft: Draft, target: Tensor, sampler: Sampler) -> Verdict:
    """Rejection sampling: the tokens that come out are distributed as `target`, whatever the draft.

    Token x, drawn from q, is kept with probability min(1, p(x) / q(x)); at the first one that is not, a token is
    drawn from max(0, p - q). A draft without probabilities is one chosen with certainty: q is 1 at its token.

    Args:
        draft: n tokens with `probabilities` [n, V] or None.
        target: float32 [n + 1, V], the distributions p to be kept.
    """
    if not draft.tokens:
        return Verdict(0, sampler.draw(target[0]))
    ids = torch.tensor(draft.tokens, device=target.device)[:, None]
    p = target[:-1].gather(1, ids)[:, 0].tolist()
    q = [1.0] * len(p)
    if draft.probabilities is not None:
        q = draft.probabilities.to(target.device).gather(1, ids)[:, 0].tolist()
    for i, u in enumerate(sampler.uniform(len(p))):
        if u * q[i] >= p[i]:  # not kept; u < p/q without dividing
            return Verdict(i, sampler.draw(residual(target[i], draft, i)))
    return Verdict(len(p), sampler.draw(target[-1]))


def residual(target: Tensor, draft: Draft, position: int) -> Tensor:
    """max(0, p - q) [V], unnormalised, at one draft position."""
    if draft.probabilities is None:
        rest = target.clone()
        rest[draft.tokens[position]] = 0
    else:
        rest = (target - draft.probabilities[position].to(target.device)).clamp_min(0)
    # Where p and q agree to rounding nothing is left, and a rejection was itself a rounding error: draw from p.
    return rest if rest.sum() > 0 else target
