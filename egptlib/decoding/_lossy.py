"""Lossy acceptance rules: they keep more draft tokens, and the answer is no longer the target's own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from egptlib._whole import number, whole
from egptlib.decoding._drafters import Draft
from egptlib.decoding._rules import Verdict, match_choices, reject
from egptlib.decoding._sampling import Sampler


class LossyRule(ABC):
    """Keeps leading draft tokens that pass a test or are the likeliest; then comes the target's choice.

    Sampling settings shape that choice; which draft tokens pass does not depend on chance.
    """

    name: str
    lossless = False

    @abstractmethod
    def passes(self, draft: Draft, logits: Tensor, hidden: Tensor) -> Tensor:
        """Bool [n] per draft token; `logits` [n, V] and `hidden` [n, H] of the target at its place."""

    def __call__(self, draft: Draft, logits: Tensor, hidden: Tensor, sampler: Sampler) -> Verdict:
        accepted = 0
        if draft.tokens:
            same = logits[:-1].argmax(dim=-1) == torch.tensor(draft.tokens, device=logits.device)
            kept = (self.passes(draft, logits[:-1], hidden[:-1]) | same).tolist()
            accepted = kept.index(False) if False in kept else len(kept)
        return Verdict(accepted, sampler.choose(logits[accepted]))


class CosineThreshold(LossyRule):
    """Keep a token when the drafter's aligned state and the target's have a cosine above the threshold.

    The rule of the earlier work's feature acceptance, applied for real. The drafter has to give `hidden`.
    """

    def __init__(self, threshold: float = 0.9):
        if not -1 <= threshold <= 1:
            raise ValueError(f"threshold: expected a cosine in [-1, 1], found {threshold}")
        self.threshold, self.name = threshold, f"cosine > {threshold:g} (lossy)"

    def passes(self, draft: Draft, logits: Tensor, hidden: Tensor) -> Tensor:
        if draft.hidden is None:
            raise ValueError(f"{self.name}: expected a drafter that gives hidden states aligned with the target's")
        return F.cosine_similarity(draft.hidden.to(hidden.device).float(), hidden.float(), dim=-1) > self.threshold


class TopK(LossyRule):
    """Keep a token among the target's k likeliest."""

    def __init__(self, k: int = 3):
        self.k = whole(k, "k", 1)
        self.name = f"top-{k} (lossy)"

    def passes(self, draft: Draft, logits: Tensor, hidden: Tensor) -> Tensor:
        ids = torch.tensor(draft.tokens, device=logits.device)[:, None]
        return (logits > logits.gather(1, ids)).sum(dim=1) < self.k


class Typical(LossyRule):
    """Keep a token with p(x) > min(epsilon, delta exp(-H(p))) (Medusa, Cai et al. 2024, section 2.3.1)."""

    def __init__(self, epsilon: float = 0.09, delta: float = 0.3):
        epsilon, delta = number(epsilon, "epsilon", "[0, inf)"), number(delta, "delta", "[0, inf)")
        self.epsilon, self.delta, self.name = epsilon, delta, f"typical {epsilon:g}, {delta:g} (lossy)"

    def passes(self, draft: Draft, logits: Tensor, hidden: Tensor) -> Tensor:
        log_p = logits.float().log_softmax(dim=-1)
        entropy = torch.special.entr(log_p.exp()).sum(dim=-1)
        ids = torch.tensor(draft.tokens, device=logits.device)[:, None]
        return log_p.gather(1, ids)[:, 0].exp() > (self.delta * (-entropy).exp()).clamp_max(self.epsilon)


class Fuzzy(LossyRule):
    """Keep a token where drafter and target distribution are close: Jensen-Shannon divergence at most the threshold.

    As in fuzzy speculative decoding and PyramidSD (equation 1: Div <= tau); nats, so at most ln 2.
    """

    def __init__(self, threshold: float = 0.2):
        if not threshold >= 0:
            raise ValueError(f"threshold: expected a divergence of at least 0, found {threshold}")
        self.threshold, self.name = threshold, f"fuzzy {threshold:g} (lossy)"

    def passes(self, draft: Draft, logits: Tensor, hidden: Tensor) -> Tensor:
        return jensen_shannon(*_distributions(self.name, draft, logits)) <= self.threshold


class Deferral:
    """Speculative cascade (Narasimhan et al. 2025, table 1, OPT): defer to the target where the drafter is unsure.

    Deferred when max q < max p - alpha TV(p, q). The output follows q where not deferred and p where it is: greedily
    their likeliest tokens, under sampling by rejection against that mixture.
    """

    lossless = False

    def __init__(self, alpha: float = 0.1):
        self.alpha = number(alpha, "alpha", "(-inf, inf)")
        self.name = f"deferral {alpha:g} (lossy)"

    def __call__(self, draft: Draft, logits: Tensor, hidden: Tensor, sampler: Sampler) -> Verdict:
        if not draft.tokens:
            return Verdict(0, sampler.choose(logits[0]))
        if sampler.greedy:
            q, p = _distributions(self.name, draft, logits[:-1])
            choices = torch.where(self.defers(p, q), p.argmax(dim=-1), q.argmax(dim=-1)).tolist()
            return match_choices(draft.tokens, [*choices, int(logits[-1].argmax())])
        if draft.probabilities is None:
            raise ValueError(f"{self.name}: expected a drafter that draws from a distribution")
        p, q = sampler.probabilities(logits), draft.probabilities.to(logits.device)
        mixed = torch.where(self.defers(p[:-1], q)[:, None], p[:-1], q)
        return reject(draft, torch.cat([mixed, p[-1:]]), sampler)

    def defers(self, p: Tensor, q: Tensor) -> Tensor:
        """Bool [n] of distributions [n, V]."""
        distance = (p - q).clamp_min(0).sum(dim=-1)
        return q.amax(dim=-1) < p.amax(dim=-1) - self.alpha * distance


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats of distributions [n, V]."""
    middle = torch.special.entr((p + q) / 2).sum(dim=-1)
    return middle - (torch.special.entr(p) + torch.special.entr(q)).sum(dim=-1) / 2


def _distributions(name: str, draft: Draft, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The drafter's q and the target's p, float32 [n, V] each."""
    if draft.logits is None:
        raise ValueError(f"{name}: expected a drafter with logits")
    return draft.logits.to(logits.device).float().softmax(dim=-1), logits.float().softmax(dim=-1)
