"""PipeSpec and prefill hiding against simulations of what they describe, and hiding against recorded runs."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from egptlib.metrics import (
    expected_tokens,
    pipespec_limit,
    pipespec_steady_tokens,
    pipespec_synchronous_speedup,
    pipespec_tokens,
    pipespec_verify_share,
    prefill_hiding_seconds,
)

PIPELINES = list(product([0.0, 0.3, 0.6, 0.9, 1.0], [1, 4, 8]))


def run_pipelines(alpha: float, gamma: int, steps: int, pipelines: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Run the target side of algorithm 1 token by token; return which steps verified and how many tokens they gave."""
    rng = np.random.default_rng(7)
    verifies = rng.random(pipelines) < alpha
    shares, tokens = np.zeros(steps), np.zeros(steps)
    for t in range(steps):
        alive, gained = verifies.copy(), np.ones(pipelines)
        for _ in range(gamma):
            alive &= rng.random(pipelines) < alpha
            gained += alive
        shares[t], tokens[t] = verifies.mean(), gained.mean()
        # The next window can be verified when nothing was thrown away and the drafter foresaw the token just written.
        verifies = np.where(verifies, alive, True) & (rng.random(pipelines) < alpha)
    return shares, tokens


@pytest.mark.parametrize(("alpha", "gamma"), PIPELINES)
def test_pipespec_against_simulation(alpha: float, gamma: int) -> None:
    settled = alpha < 0.9 and gamma > 1  # the swings of equation 2 have died down after 20 steps
    shares, tokens = run_pipelines(alpha, gamma, 41 if settled else 6)
    for t in (0, 1, 2, 5):
        assert pipespec_verify_share(alpha, gamma, t) == pytest.approx(shares[t], abs=0.03)
        share = pipespec_verify_share(alpha, gamma, t)
        assert pipespec_tokens(alpha, gamma, share) == pytest.approx(tokens[t], rel=0.05)
    if settled:
        assert pipespec_verify_share(alpha, gamma) == pytest.approx(shares[20:].mean(), abs=0.02)
        assert pipespec_steady_tokens(alpha, gamma) == pytest.approx(tokens[20:].mean(), rel=0.02)


@pytest.mark.parametrize(("alpha", "gamma"), [p for p in PIPELINES if p[0] < 1])
def test_equation_3_is_the_mean_that_equation_2_comes_to(alpha: float, gamma: int) -> None:
    shares = [pipespec_verify_share(alpha, gamma, t) for t in range(300)]
    assert np.mean(shares) == pytest.approx(pipespec_verify_share(alpha, gamma), abs=0.01)


@pytest.mark.parametrize(("alpha", "gamma"), PIPELINES)
def test_theorem_1_and_its_limit(alpha: float, gamma: int) -> None:
    steady = pipespec_steady_tokens(alpha, gamma)
    assert steady > 1 if alpha > 0 else steady == 1
    assert steady <= pipespec_limit(alpha, gamma) + 1e-12
    assert pipespec_steady_tokens(0.9999, gamma) == pytest.approx(pipespec_limit(0.9999, gamma), rel=0.01)


def test_synchronous_speedup_against_a_clock() -> None:
    rng, alpha, gamma, ratio = np.random.default_rng(2), 0.8, 5, 4.0
    hits = rng.random((20_000, gamma)) < alpha
    tokens = np.cumprod(hits, axis=1).sum() + len(hits)
    seconds = len(hits) * (gamma / ratio + 1)  # in target steps, so plain decoding takes one a token
    assert pipespec_synchronous_speedup(alpha, gamma, ratio) == pytest.approx(tokens / seconds, rel=0.01)
    # Recorded c = 0.70: what papers/notes/pipespec.md says of this pair.
    assert pipespec_synchronous_speedup(0.88, 5, 1 / 0.7) == pytest.approx(1.0, abs=0.01)


def test_hidden_prefill_against_two_lanes_on_one_clock() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        reading, drafter_reading, step, verify, rest = rng.uniform(0.01, 1, 5)
        count = int(rng.integers(0, 12))
        # Events of both lanes, taken in the order of time.
        lanes = sorted([reading] + [drafter_reading + step * (i + 1) for i in range(count)] + [drafter_reading])
        now = lanes[-1] + verify + rest
        assert prefill_hiding_seconds(reading, drafter_reading, step * count, verify, rest) == pytest.approx(now)


def test_hidden_prefill_of_the_recorded_runs(shared: Path) -> None:
    """The earlier runs stop drafting when the target is ready; what they call decoding is verification and the rest."""
    file = shared / "recorded" / "e2e_wallclock_20260207_113610_LVL.json"
    methods = json.loads(file.read_text())["sd_per_sample"]
    assert len(methods) == 4
    for row in (row for rows in methods.values() for row in rows):
        target, drafter = row["vl_prefill_ms"] / 1e3, row["egpt_prefill_ms"] / 1e3
        window = max(0.0, target - drafter)
        found = prefill_hiding_seconds(target, drafter, window, 0.0, row["sd_decode_ms"] / 1e3)
        assert found == pytest.approx(row["sd_total_ms"] / 1e3, rel=1e-9)


def test_formulas_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="verify_share"):
        pipespec_tokens(0.5, 4, 1.2)
    with pytest.raises(ValueError, match="alpha"):
        pipespec_verify_share(-0.1, 4)
    with pytest.raises(ValueError, match="step"):
        pipespec_verify_share(0.5, 4, -1)
    with pytest.raises(ValueError, match="speed_ratio"):
        pipespec_synchronous_speedup(0.5, 4, 0.0)
    with pytest.raises(ValueError, match="times of 0 or more"):
        prefill_hiding_seconds(1.0, 1.0, -0.1, 0.0, 0.0)
    assert pipespec_limit(0.8, 5) == expected_tokens(0.8, 5)
