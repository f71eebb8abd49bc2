"""PipeSpec (McDanel et al. 2025, arXiv 2505.01572v1, section 3.3): equations 1 to 6 of an asynchronous pipeline.

A step is one target pass. It either verifies a window of gamma drafts, or writes one token because the last drafts were
rejected. The drafts are taken as there in time and checking them as no dearer than one step (v = 1): both have to hold
on the machine before tokens a step become a speedup. `CostModel` charges what they cost.
"""

from egptlib.metrics._formulas import expected_tokens, leviathan_speedup


def pipespec_tokens(alpha: float, gamma: int, verify_share: float) -> float:
    """Tokens a step: (1 - rho) + rho (1 - alpha^(gamma + 1)) / (1 - alpha). PipeSpec, equation 1.

    Args:
        alpha: probability that a draft token is accepted, each independently of the others.
        verify_share: rho, the share of steps that verify drafts.

    Raises:
        ValueError: alpha or the share outside [0, 1], gamma below 0.
    """
    if not 0 <= verify_share <= 1:
        raise ValueError(f"verify_share: expected a share in [0, 1], got {verify_share}")
    return (1 - verify_share) + verify_share * expected_tokens(alpha, gamma)


def pipespec_verify_share(alpha: float, gamma: int, step: int | None = None) -> float:
    """Probability rho that a step verifies drafts: at one step (equation 2), or in the steady state (equation 3).

    Equation 2, from rho(0) = alpha on: rho(t) = rho(t - 1) alpha^(gamma + 1) + (1 - rho(t - 1)) alpha: after a
    verification all gamma drafts and the next one have to be right, after a plain step only the next one.
    Equation 3 is its limit, alpha / (1 - alpha^(gamma + 1) + alpha).

    Args:
        step: t, 0 is the first. None: the steady state.

    Raises:
        ValueError: alpha outside [0, 1], gamma or step below 0.
    """
    expected_tokens(alpha, gamma)  # the same arguments are allowed
    every = alpha ** (gamma + 1)
    if step is None:
        return alpha / (1 - every + alpha)
    if step < 0:
        raise ValueError(f"step: expected 0 or more, got {step}")
    share = alpha
    for _ in range(step):
        share = share * every + (1 - share) * alpha
    return share


def pipespec_steady_tokens(alpha: float, gamma: int) -> float:
    """Tokens a step in the steady state: equation 1 at the share of equation 3. PipeSpec, theorem 1, equation 4.

    More than 1 for every alpha in (0, 1) and gamma of 1 or more. The paper calls it a speedup; it is one where each
    model has a device of its own that the other does not slow down. Errors as `pipespec_verify_share`.
    """
    return pipespec_tokens(alpha, gamma, pipespec_verify_share(alpha, gamma))


def pipespec_synchronous_speedup(alpha: float, gamma: int, speed_ratio: float) -> float:
    """Draft and verify in turn: (1 - alpha^(gamma + 1)) / ((1 - alpha) (gamma / c' + 1)). PipeSpec, equation 5.

    Args:
        speed_ratio: c', drafter steps that fit into one target step: 1 / c of the other formulas here.

    Raises:
        ValueError: alpha outside [0, 1], gamma below 0, a ratio that is not positive.
    """
    if speed_ratio <= 0:
        raise ValueError(f"speed_ratio: expected a positive number, got {speed_ratio}")
    return leviathan_speedup(alpha, gamma, 1 / speed_ratio)


def pipespec_limit(alpha: float, gamma: int) -> float:
    """Tokens a step where every step verifies: (1 - alpha^(gamma + 1)) / (1 - alpha). PipeSpec, equation 6.

    What equation 4 comes near to as alpha comes near to 1. Errors as `expected_tokens`.
    """
    return pipespec_tokens(alpha, gamma, 1.0)
