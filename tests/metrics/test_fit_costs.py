"""Costs that were fitted on simulated runs foretell other simulated runs, to the last digit where nothing is noisy."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from egptlib.metrics import CostModel, Costs, Replay, fit_costs, replay

TRUE = Costs(
    target_step=1.0,
    drafter_step=0.2,
    verify={0: 1.1, 4: 1.5, 9: 2.5},
    drafter_passes={2: 0.25},
    target_stages={"preprocess": 1.0, "vision": 2.0, "prefill": 7.0},
    drafter_stages={"vision": 1.0, "prefill": 2.0},
    round_overhead=0.03,
    draft_overhead=0.05,
    call_overhead=0.4,
    free_draft_step=0.3,
    contention_target=1.3,
    contention_drafter=1.2,
)


def simulate(found: Replay, sample: int, gamma: int, kind: str, rng: Any, noise: float) -> tuple[Any, float]:
    """One run, event by event, on a clock that starts anywhere: "after" the prefill, in "sequence", or "beside"."""
    events: list[Any] = []
    clock = {"target": 100.0, "drafter": 100.0}

    def work(lane: str, stage: str, seconds: float, **info: Any) -> None:
        start = clock[lane]
        clock[lane] += seconds * (1 + noise * rng.standard_normal())
        events.append(SimpleNamespace(lane=lane, stage=stage, start=start, end=clock[lane], info=info))

    rounds = found.rounds(sample, gamma)
    reading = {"target": TRUE.target_stages, "drafter": TRUE.drafter_stages}
    slow = {"target": 1.3, "drafter": 1.2} if kind == "beside" else {"target": 1.0, "drafter": 1.0}
    order = ("target", "drafter") if kind == "after" else ("drafter", "target")
    for lane in order:
        for stage, seconds in reading[lane].items():
            work(lane, stage, seconds * slow[lane])
        if lane == "drafter" and kind != "after":
            work("drafter", "draft", 0.3 * rounds[0][0], drafted=rounds[0][0])
        if kind != "beside":
            clock = dict.fromkeys(clock, clock[lane])
    now, full = clock["target"], False
    for i, (drafted, accepted, _) in enumerate(rounds):
        clock = dict.fromkeys(clock, now)
        ahead = i == 0 and kind != "after"
        if drafted and not ahead:
            work("drafter", "draft", 0.05 + 0.2 * drafted + 0.05 * full, drafted=drafted)
        clock["target"] = clock["drafter"] if drafted and not ahead else now
        work("target", "verify" if drafted else "step", TRUE.verify_seconds(drafted), **({"free": 3} if ahead else {}))
        full = drafted > 0 and accepted == drafted
        now = clock["target"] + 0.03
    return SimpleNamespace(rounds=rounds, events=events), now - 100.0 + 0.4


@pytest.mark.parametrize("kind", ["after", "sequence", "beside"])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_what_was_fitted_foretells_other_runs(kind: str, noise: float) -> None:
    rng = np.random.default_rng(4)
    match, lengths = rng.random((80, 30)) < 0.8, rng.integers(8, 31, 80)
    free = None if kind == "after" else rng.integers(1, 10, 80)
    gammas = [4, 9]

    def replayed(chosen: slice) -> Replay:
        return replay(match[chosen], lengths[chosen], gammas, limit=30, free=None if free is None else free[chosen])

    fitting, other = slice(0, 40), slice(40, 80)
    runs = [simulate(replayed(fitting), s, g, kind, rng, noise) for s in range(40) for g in gammas]
    base = Costs(1.0, 0.9, verify={0: 1.1}, target_stages=TRUE.target_stages, drafter_stages=TRUE.drafter_stages)
    costs = fit_costs([run for run, _ in runs], [seconds for _, seconds in runs], base)
    if not noise:
        for name in ("drafter_step", "draft_overhead", "round_overhead", "call_overhead", "drafter_passes"):
            assert getattr(costs, name) == pytest.approx(getattr(TRUE, name)), name
        assert costs.verify[9] == pytest.approx(2.5)
        assert costs.contention_target == pytest.approx(1.3 if kind == "beside" else 1.0)
        assert costs.free_draft_step == pytest.approx(0.0 if kind == "after" else 0.3)
    for gamma in gammas:
        found = CostModel(costs).predict(replayed(other), lengths[other], gamma, overlap=kind == "beside")
        clock = [simulate(replayed(other), s, gamma, kind, rng, noise)[1] for s in range(40)]
        assert found.seconds.sum() == pytest.approx(sum(clock), rel=1e-9 if not noise else 0.02)


def test_bad_input() -> None:
    base = Costs(1.0, 1.0)
    with pytest.raises(ValueError, match="as many times as runs"):
        fit_costs([], [], base)
    reading = SimpleNamespace(lane="target", stage="prefill", start=0.0, end=1.0, info={})
    with pytest.raises(ValueError, match="expected target passes"):
        fit_costs([SimpleNamespace(rounds=[], events=[reading])], [1.0], base)
    run, whole = simulate(
        replay(np.ones((1, 9), dtype=bool), np.array([9]), [2]), 0, 2, "after", np.random.default_rng(0), 0.0
    )
    with pytest.raises(ValueError, match="zip"):  # a pass without its event
        fit_costs([SimpleNamespace(rounds=[*run.rounds, (0, 0, 1)], events=run.events)], [whole], base)


def test_plain_runs_say_what_plain_decoding_costs() -> None:
    found = replay(np.zeros((20, 12), dtype=bool), np.full(20, 12), [0])
    plain = [simulate(found, s, 0, "after", np.random.default_rng(0), 0.0) for s in range(20)]
    for run, _ in plain:
        run.events = [event for event in run.events if event.lane == "target"]
    seconds = [whole - TRUE.drafter_prefill for _, whole in plain]
    costs = fit_costs([run for run, _ in plain], seconds, Costs(9.0, 9.0))
    assert costs.target_step == pytest.approx(1.1) and costs.target_prefill == pytest.approx(10)
    predicted = CostModel(costs).predict(found, np.full(20, 12), 0)
    assert predicted.seconds == pytest.approx(seconds)
