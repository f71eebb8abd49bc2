"""What a map of speedups holds, by acceptance and cost of a verification."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SpeedupMap:
    """Speedup by acceptance and verify cost; as `recorded.HidingCosts.speedup_map` makes it.

    Attributes:
        alphas: [alpha], probability that a draft token is accepted, given those before it.
        verify_costs: [verify], a verification in target steps.
        speedup: [verify, alpha].
        gamma: int [verify, alpha], draft tokens a round that give most; 0 where plain steps do.
        free: draft tokens that fit the window.
    """

    alphas: np.ndarray
    verify_costs: np.ndarray
    speedup: np.ndarray
    gamma: np.ndarray
    free: int


@dataclass(frozen=True)
class MapPoint:
    """A place on the map.

    Attributes:
        alpha: acceptance of one draft token.
        verify_cost: in target steps.
        drafter_cost: a step of what drafts in the rounds, in the drafter's own.
        speedup: there.
        tag: where the speedup comes from.
    """

    alpha: float
    verify_cost: float
    drafter_cost: float
    speedup: float
    tag: str
