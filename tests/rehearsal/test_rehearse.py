"""Counts against what is known by hand, by the memory plan and by the clock; faults are named with their line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.metrics import Costs
from egptlib.models import Model, plan_memory
from egptlib.recorded import open_recorded
from egptlib.rehearsal import CARDS, Count, Rehearsal, Tally, pretended_devices, rehearse, used_shares

PLACES = pytest.mark.parametrize("target_device", [None, "cuda:1"], ids=["one", "two"])
PRECISIONS = pytest.mark.parametrize("quantization", [None, "int8", "nf4"], ids=["bfloat16", "int8", "nf4"])
quiet = pytest.mark.filterwarnings("ignore:.*in int8 a token")


def test_what_a_product_asks_for() -> None:
    """By hand: operations, bytes of what was there before, launches, waits with their line, and memory in blocks."""
    tally, size = Tally(), 2 * 300 * 500
    with torch.no_grad(), pretended_devices(tally):
        with tally.stage("before"):
            weight = torch.empty(300, 500, dtype=torch.bfloat16, device="pretend:1")
        with tally.stage("product"):
            x = torch.ones(7, 500, dtype=torch.bfloat16, device="pretend:1")
            y = F.relu(F.linear(x, weight))
            assert torch.tensor([4, 5, 6], device="pretend:1").roll(1).tolist() == [6, 4, 5]  # known all the way
            assert y.argmax(dim=-1).tolist() == [300] * 7 and float(y[0, 0]) == 0.5
        del x, y
    count = tally.stages["product"]["pretend:1"]
    assert count.flops == {"bfloat16": 2 * 7 * 300 * 500} and count.moved == size
    assert count.launches == 5  # ones, product, relu, argmax, roll
    assert sum(count.waits.values()) == 4  # ids handed over to a device at work, three looks
    blocks = -(-size // 512) * 512 + 7168 + 2 * 4608
    assert count.peak == blocks and tally.alive["pretend:1"] == -(-size // 512) * 512


def test_operands_of_two_dtypes_are_refused() -> None:
    with torch.no_grad(), pretended_devices(Tally()):
        weight = torch.empty(300, 500, dtype=torch.bfloat16, device="pretend:0")
        with pytest.raises(RuntimeError, match=r"of one dtype, found torch\.bfloat16, torch\.float32"):
            weight @ torch.empty(500, 300, device="pretend:0")


@pytest.mark.slow
def test_a_fault_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """States that are left on the CPU by a pass over several tokens."""
    right: Any = Model.read
    monkeypatch.setattr(Model, "read", lambda self, *given: right(self, *given).cpu())
    found = rehearse(layers=1, sizes=(), device="cuda")
    assert [(r.stage, r.line.split(":")[0]) for r in found.refusals] == [
        ("drafter read 1", "egptlib/models/_interface.py"),
        ("target read 1", "egptlib/models/_interface.py"),
    ]
    assert "same device" in found.refusals[0].reason and "cuda" in found.refusals[0].reason
    with pytest.raises(ValueError, match=r"^rehearsal: drafter read 1: refused"):
        found.costs(CARDS["H200"])


@pytest.mark.slow
@quiet
@PLACES
@PRECISIONS
def test_the_pair_at_full_size(quantization: Any, target_device: str | None) -> None:
    """Nothing is refused, the weights are those of the plan, a step reads them once."""
    found = rehearse(sizes=(2, 6), device="cuda", target_device=target_device, quantization=quantization)
    assert found.refusals == [] and set(found.peak) == ({"cuda:0", "cuda:1"} if target_device else {"cuda:0"})
    plan, precision = plan_memory(), quantization or "bfloat16"
    sides = {"cuda:0": "EventGPT", "cuda:1": "Video-LLaVA"} if target_device else {"cuda:0": None}
    for device, side in sides.items():
        seen = found.stages["drafter vision" if side == "EventGPT" else "target vision"][device]
        weights = plan.weight_bytes(precision, side)
        assert weights < found.stages["load"][device].peak < 1.02 * weights + 2**28  # the last one is quantized there
        assert seen.peak > weights and not [r for r in found.refused_by(CARDS["H200"]) if r not in found.refusals]
    read = found.on("target read 1").moved
    assert (
        {None: 12.3, "int8": 6.2, "nf4": 3.3}[quantization]
        < read / 2**30
        < {None: 13.6, "int8": 7.5, "nf4": 4.7}[quantization]
    )
    refused = found.refused_by(CARDS["RTX 4090"])
    assert bool(refused) == (quantization is None and target_device is None)
    assert found.on("target read 6").flops != found.on("target read 2").flops


@pytest.mark.slow
@quiet
@PLACES
@PRECISIONS
def test_every_drafter_adapter_rule_and_mode(quantization: Any, target_device: str | None) -> None:
    """At full width; three layers hide no device and no dtype."""
    found = rehearse(
        layers=3, sizes=(), every_method=True, device="cuda", target_device=target_device, quantization=quantization
    )
    assert found.refusals == []
    assert {"E3S", "L4", "cascade", "trees", "pipelined", "extraction", "questions together"} <= set(found.stages)


def test_a_bound_is_the_longer_of_both() -> None:
    card = CARDS["RTX 4090"]
    assert card.bound(Count(flops={"bfloat16": 165.2e12})) == pytest.approx(1)
    assert card.bound(Count(flops={"bfloat16": 1.0}, moved=2 * 1008 * 10**9)) == pytest.approx(2, rel=1e-3)
    assert card.bound(Count(moved=1000)) <= 0  # its cache may hold that


@pytest.mark.slow
def test_the_verb_gives_costs_that_predict_takes(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["rehearse", "--gpu", "RTX 4090", "--precision", "nf4", "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert "refused: nothing" in run.stdout and "| target prefill | " in run.stdout
    costs = Costs.load(tmp_path / "costs_RTX_4090.json")
    assert costs.device == "RTX 4090, estimated bound" and costs.precision == "nf4"
    assert 0.003 < costs.target_step < 0.006 and costs.verify_cost(5) < 1.1


def test_no_room_is_told_per_device() -> None:
    count = Count(peak=30 * 2**30, at="egptlib/models/_lean.py:74")
    found = Rehearsal({}, {"target prefill": {"cuda:0": count, "cuda:1": Count()}})
    assert [str(r) for r in found.refused_by(CARDS["RTX 4090"])] == [
        "target prefill: needs 30.00 GiB of cuda:0, RTX 4090 has 23.49 (egptlib/models/_lean.py:74)"
    ]
    assert found.refused_by(CARDS["H200"]) == []


@pytest.mark.slow
def test_no_bound_is_above_a_recorded_time(shared: Path) -> None:
    """The earlier runs on an RTX 4090: every stage took longer than its bound, and the map says by how much."""
    files = ("five_stage_seq2s_20260127_204018.json", "sd_eval_20260129_222146.json", "sd_eval_20260129_222534.json")
    rows = [row for name in files for row in open_recorded(shared / "recorded" / name).rows]
    found = rehearse(sizes=(30,), event_images=1, device="cuda", quantization="nf4")
    shares = used_shares(found, CARDS["RTX 4090"], rows)
    assert len(shares) == 6 and all(0 < row.bound < row.least <= row.median for row in shares)
    by_stage = {row.stage: row for row in shares}
    assert by_stage["target read 30"].share < 0.1 < by_stage["target read 1"].share < 0.5
    assert by_stage["target vision + target prefill"].share > 0.4
    # Both models' weights as that card held them, MB as its file has it (MiB).
    assert found.stages["drafter vision"]["cuda:0"].peak / 2**20 == pytest.approx(7952.6, rel=0.02)
