"""Costs fitted from a trace that was saved and read again, against the costs its runs were simulated with."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from egptlib.metrics import CostModel, Replay, replay
from egptlib.traces import Trace, TraceRow, fit_trace, recorded_schedule, trace_from_generations
from tests.metrics.test_fit_costs import TRUE, simulate

GAMMAS = [4, 9]
FITTED, TOLD = slice(0, 30), slice(30, 60)
RANDOM = np.random.default_rng(7)
MATCH, LENGTHS, FREE = RANDOM.random((60, 30)) < 0.8, RANDOM.integers(8, 31, 60), RANDOM.integers(1, 10, 60)


def replayed(part: slice, gammas: list[int], free: bool = False) -> Replay:
    return replay(MATCH[part], LENGTHS[part], gammas, limit=30, free=FREE[part] if free else None)


def timed(method: str, kind: str, gammas: list[int], free: bool = False) -> Trace:
    """Runs on the samples that are fitted on, one row a sample and gamma."""
    found = replayed(FITTED, gammas, free)
    runs, seconds, prompts = [], [], []
    for gamma in gammas:
        for s in range(30):
            run, whole = simulate(found, s, gamma, kind, np.random.default_rng(0), 0.0)
            rounds = [SimpleNamespace(drafted=d, accepted=a, gained=g) for d, a, g in run.rounds]
            runs.append(SimpleNamespace(token_ids=torch.arange(LENGTHS[s]), rounds=rounds, events=run.events))
            seconds.append(whole)
            prompts.append((f"scene {s}", "?"))
    return trace_from_generations(runs, prompts, method, seconds, pair="simulated", device="a clock")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path: Path = tmp_path_factory.mktemp("trace") / "trace.parquet"
    parts = [
        timed("plain", "after", [0]),
        timed("speculative", "after", GAMMAS),
        timed("in sequence", "sequence", GAMMAS, free=True),
        timed("hidden", "beside", GAMMAS, free=True),
    ]
    Trace.join(parts).save(path)
    return Trace.load(path)


def test_plain_decoding_is_fitted_first_and_nothing_is_made_up(trace: Trace) -> None:
    assert fit_trace(trace, "speculative") == fit_trace(trace, "speculative", ["plain"])
    without = Trace.join([trace.method("speculative"), trace.method("in sequence")])
    with pytest.raises(ValueError, match="'speculative' does not say what a step of plain decoding takes"):
        fit_trace(without, "speculative")
    with pytest.raises(ValueError, match="'plain' do not say what a step of the drafter takes"):
        fit_trace(trace, "plain")


@pytest.mark.parametrize(
    ("method", "after", "free"),
    [
        ("speculative", ["plain"], False),
        ("in sequence", ["plain", "speculative"], True),
        ("hidden", ["plain", "in sequence"], True),
    ],
)
def test_known_costs_come_back_and_foretell_other_runs(trace: Trace, method: str, after: list[str], free: bool) -> None:
    costs = fit_trace(trace, method, after)
    assert (costs.pair, costs.device) == ("simulated", "a clock")
    for name in ("drafter_step", "draft_overhead", "round_overhead", "call_overhead"):
        assert getattr(costs, name) == pytest.approx(getattr(TRUE, name)), name
    assert costs.verify[9] == pytest.approx(TRUE.verify[9])
    assert costs.target_step == pytest.approx(TRUE.verify[0])  # what a plain pass took in these runs
    assert costs.contention_target == pytest.approx(TRUE.contention_target if method == "hidden" else 1.0)
    kind = {"speculative": "after", "in sequence": "sequence", "hidden": "beside"}[method]
    for gamma in GAMMAS:
        found = CostModel(costs).predict(replayed(TOLD, GAMMAS, free), LENGTHS[TOLD], gamma, overlap=kind == "beside")
        told = replayed(TOLD, GAMMAS, free)
        clock = [simulate(told, s, gamma, kind, np.random.default_rng(0), 0.0)[1] for s in range(30)]
        assert found.seconds == pytest.approx(clock)


def test_the_schedule_of_timed_runs_is_the_replay(trace: Trace) -> None:
    rows = trace.method("speculative")
    at_nine = rows.select(range(30, 60))
    found, expected = recorded_schedule(at_nine), replayed(FITTED, [9])
    for s in range(30):
        assert found.rounds(s, 9) == expected.rounds(s, 9)
    again = CostModel(fit_trace(trace, "speculative", ["plain"])).predict(found, at_nine.lengths, 9)
    assert again.seconds == pytest.approx([row.total_seconds for row in at_nine.rows])


def of_sums(method: str, accepted: int, length: int) -> TraceRow:
    """A run of which only sums are known: steps of 0.02, a verification of 0.05, an adapter of 0.001 s."""
    if method == "plain":
        stages, rounds, drafter = {"prefill": 0.3, "decode": 0.02 * (length - 1)}, [], {}
    else:
        left = length - accepted - 2
        rounds = [(20, accepted, accepted + 2), *[(0, 0, 1)] * left]
        stages = {"prefill": 0.33, "decode": 0.05 + 0.02 * left}
        drafter = {"prefill": 0.1, "draft": 0.2, "adapter": 0.001}
    total = sum(stages.values()) + drafter.get("adapter", 0.0)
    return TraceRow(
        "a", "?", num_tokens=length, method=method, rounds=rounds, target_stages=stages, drafter_stages=drafter,
        total_seconds=total,
    )  # fmt: skip


def test_sums_of_runs_with_one_draft_are_enough() -> None:
    lengths, accepted = [30, 40, 50], [0, 7, 20]
    rows = [of_sums(m, k, n) for m in ("plain", "hidden") for k, n in zip(accepted, lengths)]
    trace = Trace(rows, path="free", precision="nf4")
    costs = fit_trace(trace, "hidden", ["plain"])
    assert costs.precision == "nf4"
    assert (costs.target_step, costs.drafter_step) == pytest.approx((0.02, 0.01))
    assert (costs.verify[1], costs.verify[20]) == pytest.approx((0.05, 0.05))
    assert (costs.contention_target, costs.call_overhead) == pytest.approx((1.1, 0.001))
    runs = trace.method("hidden")
    found = CostModel(costs).predict(recorded_schedule(runs), runs.lengths, 20, overlap=True)
    assert found.seconds == pytest.approx([row.total_seconds for row in runs.rows])
    assert found.baseline == pytest.approx([row.total_seconds for row in trace.method("plain").rows])


def test_what_cannot_be_fitted() -> None:
    plain, hidden = of_sums("plain", 0, 30), of_sums("hidden", 3, 30)
    with pytest.raises(ValueError, match="no method 'other'; timed were plain"):
        fit_trace(Trace([plain]), "other")
    with pytest.raises(ValueError, match="without total_seconds"):
        fit_trace(Trace([replace(plain, total_seconds=None)]), "plain")
    with pytest.raises(ValueError, match="expected the seconds of reading and of decoding"):
        fit_trace(Trace([replace(plain, target_stages={})]), "plain")
    with pytest.raises(ValueError, match="plain decoding was fitted before"):
        fit_trace(Trace([plain, hidden]), "hidden")
    twice = replace(hidden, rounds=[(5, 0, 2), (5, 0, 1)])
    with pytest.raises(ValueError, match="the one of its answer"):
        fit_trace(Trace([plain, twice]), "hidden", ["plain"])
    with pytest.raises(ValueError, match="expected rows with their rounds"):
        recorded_schedule(Trace([plain]))
