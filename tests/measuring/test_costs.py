"""Costs: what is measured is complete, and measuring leaves the models as they were."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from egptlib.measuring import _costs, report_costs
from egptlib.metrics import Costs
from egptlib.models import STEP_PARTS, Pair, shared_vocabulary
from tests.decoding.conftest import make_model


class Prompt(list[int]):
    """Token ids with what a scene has besides its pictures."""

    questions = ("",)
    metadata: dict[str, Any] = {"load_seconds": 0.5}  # noqa: RUF012


def test_a_report_is_complete(tmp_path: Any) -> None:
    target = make_model(0, layers=3, name="target")
    pair = Pair("tiny", drafter := make_model(1), target, shared_vocabulary(drafter, target))
    before = target.decode_greedy(target.prefill(target.encode([4, 5, 6], "")), 12)[0].tolist()
    report = report_costs(pair, Prompt([4, 5, 6]), gammas=[0, 1, 4], repeats=2, measure_contention=False)
    costs = report.costs
    assert set(costs.verify) == {0, 1, 4} and costs.context_length == 3 and costs.precision == "float32"
    assert set(costs.target_stages) == set(costs.drafter_stages) == {"load", "preprocess", "vision", "prefill"}
    assert costs.target_stages["load"] == 0.5 and costs.contention_target == 1.0
    assert set(report.c) == {"in a round", "single steps", "decode stages", "layers"}
    assert report.c["layers"] == pytest.approx(2 / 3)
    for side, layers in (("target", 3), ("drafter", 2)):
        assert (
            set(report.stages[side]) == {"load", "preprocess", "vision", "prefill", "decode"}
            and report.stages[side]["decode"] > 0
        )
        assert 1 <= report.answer_tokens[side] <= 40
        assert set(report.parts[side]) == set(STEP_PARTS) and min(report.parts[side].values()) > 0
        # query and output 32 x 32, key and value 16 x 32, three of 48 x 32, two norms of 32; and the lm head
        assert report.weights_read[side] == 4 * (layers * (2 * 1024 + 2 * 512 + 3 * 1536 + 64) + 24 * 32)
        memory = report.memory[side]
        assert memory["cache a position (KiB)"] == 2 * layers * 2 * 8 * 4 / 1024
        # The lean pass has its own copies of the weights by now, so the most is its cache for 128 positions and more.
        assert memory["peak beside them (MiB)"] * 1024 > 128 * memory["cache a position (KiB)"]
    costs.save(tmp_path / "costs.json")
    assert Costs.load(tmp_path / "costs.json") == costs
    assert target.decode_greedy(target.prefill(target.encode([4, 5, 6], "")), 12)[0].tolist() == before


def test_costs_are_the_medians_of_what_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each timing is made up; how many steps of the drafter are in one of `row` is counted."""
    pair = Pair("tiny", drafter := make_model(1), target := make_model(0), shared_vocabulary(drafter, target))
    step = Mock(wraps=drafter.step)
    for name in ("step_parts", "peak_bytes"):
        monkeypatch.setattr(_costs, name, lambda *given: 0)

    def made_up(jobs: dict[str, Any], repeats: int, device: Any) -> dict[str, list[float]]:
        with monkeypatch.context() as counted:
            counted.setattr(drafter, "step", step)
            jobs["drafter.row"]()
        made = {name: [100.0 + n, 1.0 + n, 0.0] for n, name in enumerate(jobs)}  # the median is not the mean
        return made | {"target.step": [6.0, 7.0, 8.0], "verify.0": [1.0, 9.0, 7.5], "drafter.row": [4.0, 3.0, 90.0]}

    monkeypatch.setattr(_costs, "_interleaved", made_up)
    report = report_costs(pair, Prompt([4, 5, 6]), gammas=[2, 0], repeats=3, measure_contention=False)
    names = ["preprocess", "vision", "prefill", "decode", "step"]
    target_seconds, drafter_seconds = ({name: 1.0 + at + n for n, name in enumerate(names)} for at in (0, 5))
    assert report.costs.drafter_step == 4.0 / step.call_count and step.call_count == 5
    assert report.costs.target_step == 7.25 and report.costs.verify == {0: 7.25, 2: 14.0}  # after row, 2, verify.0
    assert report.costs.drafter_passes == {2: 12.0}
    assert report.stages["drafter"] == {"load": 0.5} | {name: drafter_seconds[name] for name in names[:4]}
    assert report.costs.target_stages == {"load": 0.5} | {name: target_seconds[name] for name in names[:3]}
    assert report.c["in a round"] == 0.8 / 7.25 and report.c["single steps"] == drafter_seconds["step"] / 7.25


def test_what_takes_seconds_is_run_no_more_often_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(_costs, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    takes = {"slow": 3.0, "some": 0.8, "fast": 0.01}
    jobs: dict[str, Any] = {
        name: lambda seconds=seconds: clock.__setitem__(0, clock[0] + seconds) for name, seconds in takes.items()
    }
    for repeats, times in ((1, [1, 1, 1]), (2, [2, 2, 2]), (9, [3, 3, 9])):
        found = _costs._interleaved(jobs, repeats, torch.device("cpu"))
        assert [len(found[name]) for name in takes] == times
        assert all(one == pytest.approx(takes[name]) for name in takes for one in found[name])
    assert clock[0] == pytest.approx(6 * 3.0 + 9 * 0.8 + 15 * 0.01)  # a first run of seconds counts, others warm up


def test_senseless_requests_are_refused() -> None:
    pair = Pair("tiny", model := make_model(1), make_model(0), shared_vocabulary(model, model))
    with pytest.raises(ValueError, match="at least one repeat"):
        report_costs(pair, Prompt([4]), repeats=0)
    with pytest.raises(ValueError, match="gammas from 0"):
        report_costs(pair, Prompt([4]), gammas=[-1])
