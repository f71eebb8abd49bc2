"""Standard formulas of speculative decoding, which assume one acceptance rate everywhere, and maps of such speedups."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def expected_tokens(alpha: float, gamma: int) -> float:
    """Tokens a target pass gives on average, bonus included: (1 - alpha^(gamma + 1)) / (1 - alpha).

    Leviathan et al. 2023, equation 1; each draft token is accepted with probability alpha, independently.

    Raises:
        ValueError: alpha outside [0, 1] or gamma below 0.
    """
    if not 0 <= alpha <= 1 or gamma < 0:
        raise ValueError(f"expected alpha in [0, 1] and gamma of 0 or more, got {alpha} and {gamma}")
    return gamma + 1.0 if alpha == 1 else (1 - alpha ** (gamma + 1)) / (1 - alpha)


def acceptance_rate(tokens_per_pass: float, gamma: int) -> float:
    """Return the alpha at which `expected_tokens` gives so many; at most 1."""
    alpha = least_alpha(lambda alpha: expected_tokens(alpha, gamma), tokens_per_pass)
    return 1.0 if alpha is None else alpha


def least_alpha(gain: Callable[[float], float], goal: float) -> float | None:
    """Return the least acceptance, by halving, that gives `goal`; None where even 1 does not."""
    if gain(1.0) < goal:
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if gain(middle) >= goal else (middle, high)
    return high


def leviathan_speedup(alpha: float, gamma: int, c: float) -> float:
    """Expected speedup where checking gamma + 1 tokens costs one step (Leviathan et al. 2023, theorem 3.8).

    With 4-bit kernels a check costs several steps: use `steady_speedup` with the measured verify cost. Errors as
    `expected_tokens`.
    """
    return steady_speedup(expected_tokens(alpha, gamma), gamma, c, 1.0)


def steady_speedup(mean_acceptance_length: float, gamma: int, c: float, verify_cost: float) -> float:
    """tau / (gamma c + v(gamma)): decoding alone, prefill not counted.

    Args:
        mean_acceptance_length: tau, tokens per target pass with the bonus.
        c: cost of a drafter step in target steps.
        verify_cost: v, a target pass over gamma + 1 tokens in target steps.

    Raises:
        ValueError: tau outside [1, gamma + 1], a negative c, a verify cost that is not positive.
    """
    if not 1 <= mean_acceptance_length <= gamma + 1 + 1e-9:
        raise ValueError(f"mean_acceptance_length: expected 1 to {gamma + 1}, got {mean_acceptance_length}")
    if not (c >= 0 and verify_cost > 0):
        raise ValueError(f"expected c of 0 or more and a positive verify_cost, got {c} and {verify_cost}")
    return mean_acceptance_length / (gamma * c + verify_cost)


def prefill_hiding_seconds(
    target_prefill: float, drafter_prefill: float, drafting: float, verify: float, rest: float
) -> float:
    """T = max(T_prefill_target, T_prefill_drafter + drafting) + verify + rest, each in seconds.

    The drafter reads its prompt and drafts while the target reads its own; one pass judges the draft; the answer goes
    on from there. The critical path of that schedule (roadmap/theory.md, bound of prefill hiding). Both models are
    taken as running undisturbed: on one shared device give times measured side by side (`Costs.contention_target`).

    Args:
        drafting: of the free draft. Where it is stopped as soon as the target has read its prompt, the maximum is
            the target's prefill, or the drafter's when that alone is longer.
        verify: the target pass over the free draft, 0 when there is none.
        rest: the rounds, or the plain steps, that write what the free draft did not.

    Raises:
        ValueError: a negative time.
    """
    if not all(seconds >= 0 for seconds in (target_prefill, drafter_prefill, drafting, verify, rest)):
        raise ValueError("prefill_hiding_seconds: expected times of 0 or more")
    return max(target_prefill, drafter_prefill + drafting) + verify + rest


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
