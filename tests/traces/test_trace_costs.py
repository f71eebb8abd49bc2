"""Costs from a trace foretell what a trace of other samples took."""

import itertools

import numpy as np
import pytest

from egptlib.metrics import CostModel, Costs, Replay, replay
from egptlib.traces import Trace, TraceRow, costs_from_trace

TRUE = Costs(
    target_step=1.0,
    drafter_step=0.2,
    verify={1: 1.2, 2: 1.3, 5: 1.6},
    drafter_passes={2: 0.25},
    target_stages={"vision": 2.0, "prefill": 8.0},
    drafter_stages={"prefill": 3.0},
    draft_overhead=0.1,
    round_overhead=0.05,
    call_overhead=0.5,
)


def timed(replays: dict[int, Replay], lengths: np.ndarray) -> Trace:
    """A trace of simulated runs at each gamma; sums of stages as the clock would have them."""
    rows = []
    for gamma, found in replays.items():
        seconds = CostModel(TRUE).predict(found, lengths, gamma).seconds
        for s, length in enumerate(lengths):
            rounds = found.rounds(s, gamma)
            if not rounds:
                continue
            full = sum(0 < a[0] == a[1] and b[0] > 0 for a, b in itertools.pairwise(rounds))
            draft = sum(0.1 + 0.2 * d for d, _, _ in rounds if d) + 0.05 * full
            verify = sum(TRUE.verify_seconds(d) for d, _, _ in rounds if d)
            steps = float(sum(not d for d, _, _ in rounds))
            rows.append(
                TraceRow(
                    str(s),
                    "",
                    [7] * int(length),
                    method=f"gamma {gamma}",
                    rounds=[number for d, a, _ in rounds for number in (d, a)],
                    target_stages=TRUE.target_stages | {"verify": verify, "step": steps},
                    drafter_stages=TRUE.drafter_stages | {"draft": draft},
                    total_seconds=float(seconds[s]),
                )
            )
    return Trace(rows, pair="simulated", device="cpu")


def test_what_a_trace_says_is_what_its_runs_cost() -> None:
    rng = np.random.default_rng(0)
    match, lengths = rng.random((60, 25)) < 0.75, rng.integers(2, 26, 60)
    lengths[:30] = 25  # answers at the limit draft less near it, and take a plain step
    replays = {gamma: replay(match, lengths, [gamma], limit=25) for gamma in (2, 5)}
    costs = costs_from_trace(timed(replays, lengths))
    for name in ("target_step", "drafter_step", "draft_overhead", "round_overhead", "call_overhead", "drafter_passes"):
        assert getattr(costs, name) == pytest.approx(getattr(TRUE, name)), name
    assert costs.target_prefill == pytest.approx(10) and costs.pair == "simulated"
    other = rng.random((40, 25)) < 0.6
    for gamma in (3, 4):  # neither was in the trace
        found = replay(other, lengths[:40], [gamma], limit=25)
        foretold, true = (CostModel(c).predict(found, lengths[:40], gamma).seconds.sum() for c in (costs, TRUE))
        assert foretold == pytest.approx(true, rel=1e-3)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="expected rounds, stages and a total time"):
        costs_from_trace(Trace([TraceRow("a", "", [1, 2])]))
    plain = TraceRow("a", "", [1, 2], rounds=[0, 0], target_stages={"step": 1.0}, total_seconds=2.0)
    with pytest.raises(ValueError, match="runs that draft"):
        costs_from_trace(Trace([plain]))
