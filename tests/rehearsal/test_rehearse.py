"""Counts against what is known by hand, by the memory plan and by the clock; faults are named with their line."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from benchmarks.rehearsal import SIZES, STAGES, measured, on_plain_weights, used_shares
from egptlib.adapters import LEVELS
from egptlib.cli import app
from egptlib.metrics import Costs
from egptlib.models import Model, load_pair, plan_memory
from egptlib.recorded import open_recorded, trace_from_recorded
from egptlib.rehearsal import CARDS, Count, Rehearsal, Tally, pretended_devices, rehearse
from egptlib.traces import Trace, TraceRow

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


def test_what_learning_asks_for() -> None:
    """By hand: attention is counted twice and a half as much backwards, a known mask decides a shape, all is freed."""
    tally = Tally()
    with pretended_devices(tally):
        q, k = (torch.ones(2, 4, 300, 64, device="pretend:0", requires_grad=True) for _ in range(2))
        weight = torch.ones(64, device="pretend:0", requires_grad=True)
        with tally.stage("forwards"):
            attended = F.scaled_dot_product_attention(q, k, k, is_causal=True)
            seen = torch.arange(300, device="pretend:0") < 200
            chosen = F.rms_norm(attended, (64,), weight)[:, :, seen]
        with tally.stage("backwards"):
            chosen.sum().backward()
        assert chosen.shape == (2, 4, 200, 64) and all(
            x.grad is not None and x.grad.shape == x.shape for x in (q, k, weight)
        )
        del attended, chosen, seen
    products = 2 * 2 * 2 * 4 * 300 * 300 * 64 / 2  # two products, of which a causal one needs half
    assert tally.stages["forwards"]["pretend:0"].flops == {"float32": products}
    assert tally.stages["backwards"]["pretend:0"].flops == {"float32": 2.5 * products}
    assert tally.alive["pretend:0"] <= 2 * (2 * q.nbytes + 512)  # what is learned, and its gradients


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
    ways = {"E3S", "E3S, own vocabulary", "cascade", "trees", "pipelined", "stream", "extraction", "questions together"}
    trained = {f"train {level}" for level in (*LEVELS, "L6")}
    assert ways | trained <= set(found.stages) and ("L6" in found.stages) == (quantization is None)
    # Learned in float32 over 16-bit weights that stay, and without the models: their weights are gone by then.
    place = found.stages["train L1"]["cuda:0"]
    assert place.peak < 1.5 * 2**30
    assert sum(place.flops.values()) > 3 * 2 * 32 * 50 * 2 * 4096 * 256  # forwards, and twice that backwards


def test_a_bound_is_the_longer_of_both() -> None:
    card = CARDS["RTX 4090"]
    assert card.bound(Count(flops={"bfloat16": 165.2e12})) == pytest.approx(1)
    assert card.bound(Count(flops={"bfloat16": 1.0}, moved=2 * 1008 * 10**9)) == pytest.approx(2, rel=1e-3)
    assert card.bound(Count(moved=1000)) <= 0  # its cache may hold that


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the verb says, and its folder."""
    folder = tmp_path_factory.mktemp("costs")
    run = CliRunner().invoke(app, ["rehearse", "--gpu", "RTX 4090", "--precision", "nf4", "--out", str(folder)])
    assert run.exit_code == 0, run.output
    return run.stdout, folder


@pytest.mark.slow
def test_the_verb_gives_costs_that_predict_takes(rehearsed: tuple[str, Path]) -> None:
    said, folder = rehearsed
    assert "refused: nothing" in said and "| target prefill | " in said
    costs = Costs.load(folder / "costs_RTX_4090.json")
    assert costs.device == "RTX 4090, estimated bound" and costs.precision == "nf4"
    assert 0.003 < costs.target_step < 0.006 and costs.verify_cost(5) < 1.1


@pytest.mark.slow
def test_predict_says_what_a_card_would_give_at_best_with_recorded_acceptance(
    rehearsed: tuple[str, Path], shared: Path, tmp_path: Path
) -> None:
    """The speedup by hand, of an answer with the rounds that the earlier L4 had on a prompt, drafts of five."""
    recorded = trace_from_recorded(open_recorded(shared / "recorded" / "e2e_wallclock_20260207_113610_LVL.json"))
    rounds = [round_ for row in recorded.method("L4+VL").rows for round_ in row.rounds or ()]
    accepted = [min(accepted, 5) for drafted, accepted, _ in rounds if drafted >= 5]
    assert 0 < sum(accepted) < 5 * len(accepted)
    right = [True]
    for count in accepted:
        right += [True] * count + [count == 5]
    ids = list(range(100, 100 + len(right)))
    said = [token if ok else 7 for token, ok in zip(ids, right, strict=True)]
    trace, out, costs = tmp_path / "trace.parquet", tmp_path / "out.csv", rehearsed[1] / "costs_RTX_4090.json"
    Trace([TraceRow("a", "What?", ids, said)], pair="eventgpt-videollava", end_token_ids=(2,)).save(trace)
    options = ["--gamma", "5", "--costs", str(costs), "--out", str(out)]
    run = CliRunner().invoke(app, ["predict", str(trace), *options])
    assert run.exit_code == 0, run.output
    assert "costs of eventgpt-videollava, nf4, RTX 4090, estimated bound" in run.stdout and "[estimated]" in run.stdout
    c = Costs.load(costs)
    plain = c.target_prefill + (len(ids) - 1) * c.target_step
    passes = [c.verify[5] + 4 * c.drafter_step] * len(accepted)
    reads = [c.drafter_step, *(c.drafter_passes[2] if count == 5 else c.drafter_step for count in accepted[:-1])]
    expected = c.target_prefill + c.drafter_prefill + sum(passes) + sum(reads)
    assert pd.read_csv(out).speedup.tolist() == pytest.approx([plain / expected], rel=0.02)  # the last draft is cut


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "nf4"], ids=["bfloat16", "nf4"])
def test_the_memory_of_each_stage_is_that_of_a_measured_run(quantization: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mini pair, within the five per cent that the rows of `benchmarks.rehearsal memory` are asked for."""
    monkeypatch.setattr("egptlib.models._lean.COPY_LIMIT", 0)
    with torch.no_grad():
        there = measured(on_plain_weights(load_pair("mini", quantization=quantization, dtype=torch.bfloat16)))
    found = rehearse("mini", sizes=SIZES, device="cuda", quantization=quantization, dtype=torch.bfloat16)
    assert found.refusals == []
    for stage, real in there.items():
        if stage.split(" ", 1)[1] in STAGES:
            assert found.stages[stage]["cuda:0"].peak == pytest.approx(real, rel=0.05)


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
