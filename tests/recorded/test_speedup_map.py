"""The map against runs that are simulated token by token, and its point of today against the recorded ratio."""

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from egptlib.recorded import RTX_4090, HidingCosts, RecordedPair, open_recorded

COSTS = HidingCosts(
    baseline_prefill=0.3, target_prefill=0.3, drafter_prefill=0.095, target_step=0.02, drafter_step=0.01,
    verify=0.05, adapter=0.0, drafted=20.0,
)  # fmt: skip
TOKENS = 400  # so long that the end does not count: the map takes lengths as means


def simulated(alpha: float, verify: float, gamma: int, drafter_cost: float, free: bool, seed: int) -> float:
    """Seconds of one run: a prefill, the free draft, rounds of gamma (plain steps for 0)."""
    rng = np.random.default_rng(seed)

    def kept(count: int) -> int:
        hits = rng.random(count) < alpha
        return count if hits.all() else int(hits.argmin())

    now, known = 0.3, 1
    if free:
        now += verify * 0.02
        known += kept(20) + 1
    while known < TOKENS:
        now += gamma * 0.01 * drafter_cost + (verify * 0.02 if gamma else 0.02)
        known += kept(gamma) + 1
    return now - 0.02 * (known - TOKENS) * (0.5 if gamma else 1)  # half a round over the end, on average


@pytest.mark.parametrize(("alpha", "verify", "drafter_cost"), [(0.5, 1.0, 0.1), (0.8, 1.5, 0.2), (0.9, 3.0, 1.0)])
def test_the_map_is_what_the_best_simulated_schedule_gives(alpha: float, verify: float, drafter_cost: float) -> None:
    found = COSTS.speedup_map([alpha], [verify], TOKENS, drafter_cost)
    plain = 0.3 + (TOKENS - 1) * 0.02
    seconds = {
        gamma: min(
            fmean(simulated(alpha, verify, gamma, drafter_cost, free, seed) for seed in range(30))
            for free in (False, True)
        )
        for gamma in (0, 1, 2, 3, 4, 6, 8, 12, 16)
    }
    best = min(seconds, key=lambda gamma: seconds[gamma])
    assert found.speedup[0, 0] == pytest.approx(plain / seconds[best], rel=0.04)
    assert plain / seconds[best] < found.speedup[0, 0] * 1.03  # no schedule is better than the map says
    assert found.free == 20


def test_the_map_never_falls_below_plain_decoding_and_rises_with_acceptance() -> None:
    found = COSTS.speedup_map(np.linspace(0, 1, 30), np.linspace(1, 6, 20), 50)
    assert (found.speedup >= 1).all()
    assert (np.diff(found.speedup, axis=1) >= -1e-12).all() and (np.diff(found.speedup, axis=0) <= 1e-12).all()
    needed = COSTS.needed_alpha(1.3, 1.2, 50, 0.1)
    assert needed is not None and COSTS.map_speedup(needed, 1.2, 50, 0.1) == pytest.approx(1.3, abs=1e-4)
    assert COSTS.needed_alpha(9.0, 1.2, 50) is None


def test_today_s_point_is_where_the_recorded_runs_are(shared: Path) -> None:
    path = shared / "recorded" / "e2e_wallclock_20260207_113610_LVL.json"
    if not path.is_file():
        pytest.skip(f"recorded runs not found: {path}")
    pair = RecordedPair.from_recorded(open_recorded(path))
    for name in ("num_tokens", "alpha", "speedup"):
        assert getattr(pair, name) == pytest.approx(getattr(RTX_4090, name), rel=1e-5), name
    assert vars(pair.costs) == pytest.approx(vars(RTX_4090.costs), rel=1e-5)
    assert pair.speedup == pytest.approx(1.0128, abs=5e-5)
    on_the_map = pair.costs.map_speedup(pair.alpha, pair.costs.verify_cost, pair.num_tokens)
    assert on_the_map == pytest.approx(pair.speedup, abs=0.005)


def test_the_reading_is_what_the_map_says() -> None:
    first, second, third = RTX_4090.reading()
    assert "1.013x [computed overlap]" in first and "2x is out of reach" in first
    assert "(assumed" in second and "[estimated]" in second and "[estimated]" in third
    for row in RTX_4090.needed():
        alpha, gamma = row["acceptance"], row["gamma"]
        assert isinstance(row["goal"], float) and isinstance(row["verify cost"], float)
        assert isinstance(row["drafter cost"], float)
        if alpha is None:
            continue
        found = RTX_4090.costs.speedup_map(
            [float(alpha) - 1e-3, float(alpha)], [row["verify cost"]], RTX_4090.num_tokens, row["drafter cost"]
        )
        assert found.speedup[0, 0] < row["goal"] <= found.speedup[0, 1] + 1e-6
        assert found.gamma[0, 1] == gamma
