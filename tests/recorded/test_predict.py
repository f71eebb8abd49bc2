"""The verb `predict`: what it prints is what the library says, and runs are held against their own costs."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.metrics import CostModel, Costs, replay
from egptlib.recorded import open_recorded
from egptlib.traces import Trace, TraceRow, trace_from_generations

COSTS = Costs(
    1.0, 0.1, verify={1: 1.1, 8: 1.4}, target_stages={"prefill": 5.0}, drafter_stages={"prefill": 2.0}, pair="a pair"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(20):
        ids = rng.integers(3, 30, int(rng.integers(5, 21))).tolist()
        said = [token if rng.random() < 0.8 else 31 for token in ids]
        rows.append(TraceRow(str(i), "what?", ids, said, confidence=rng.random(len(ids)).tolist()))
    Trace(rows, end_token_ids=(2,), max_new_tokens=20).save(tmp_path / "trace.parquet")
    COSTS.save(tmp_path / "costs.json")
    return tmp_path


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("overlap", [False, True])
def test_the_table_is_what_the_library_says(folder: Path, overlap: bool) -> None:
    options = ["--gamma", "3", "--gamma", "8", "--min-confidence", "0.2"] + ["--overlap"] * overlap
    trace, costs, out = folder / "trace.parquet", folder / "costs.json", folder / "out.csv"
    output = run(trace, "--costs", costs, *options, "--out", out)
    recorded, model = Trace.load(trace), CostModel(COSTS)
    stops = recorded.drafter_ends | (recorded.values("confidence") < 0.2)
    free = 8 if overlap else None  # 31 would fit the window, but no pass over more than 8 was measured
    found = replay(recorded.match, recorded.lengths, [3, 8], limit=20, free=free, stops=stops)
    expected = [model.predict(found, recorded.lengths, gamma, overlap=overlap) for gamma in (3, 8)]
    table = pd.read_csv(out)
    assert table.speedup.tolist() == pytest.approx([prediction.speedup for prediction in expected])
    assert table["at most"].tolist() == pytest.approx([prediction.largest_speedup for prediction in expected])
    assert (table.low < table.speedup).all() and (table.speedup < table.high).all()
    assert f"{max(table.speedup):.3f}x [estimated]" in output and "a pair" in output


def test_where_no_draft_pays_the_last_line_says_so(folder: Path) -> None:
    dear = folder / "dear.json"
    replace(COSTS, drafter_step=5.0).save(dear)
    assert run(folder / "trace.parquet", "--costs", dear, "--gamma", "3").strip().endswith("plain decoding is faster")
    assert "plain decoding" not in run(folder / "trace.parquet", "--costs", folder / "costs.json", "--gamma", "3")


def test_costs_are_held_against_the_clock(folder: Path) -> None:
    recorded = Trace.load(folder / "trace.parquet")
    found = replay(recorded.match, recorded.lengths, [3])
    seconds = CostModel(COSTS).predict(found, recorded.lengths, 3).seconds
    rows = [
        TraceRow(
            row.sample, row.question, row.target_ids, method="gamma 3", tag="measured (sequential)",
            rounds=found.rounds(i, 3), total_seconds=float(seconds[i]) / 1.1,
        )
        for i, row in enumerate(recorded.rows)
        if found.rounds(i, 3)
    ]  # fmt: skip
    others = [
        TraceRow("x", "", [4, 5], method="unknown", total_seconds=1.0),
        TraceRow("x", "", [4, 5], method="long", tag="measured (sequential)", rounds=[(9, 1, 2)], total_seconds=1.0),
    ]
    Trace([*rows, *others]).save(folder / "timed.parquet")
    output = run(folder / "trace.parquet", "--costs", folder / "costs.json", "--timed", folder / "timed.parquet")
    assert f"gamma 3: +10.0% off the clock ({len(rows)} answers" in output
    assert "unknown: its rounds are not known" in output
    assert "long: cannot be foretold: costs: verify was measured from 0 to 8, 9 was asked for" in output


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_costs_of_another_pair_are_refused(folder: Path) -> None:
    replace(Trace.load(folder / "trace.parquet"), pair="another").save(folder / "trace.parquet")
    asked = (folder / "trace.parquet", "--costs", folder / "costs.json")
    assert "costs of the pair 'a pair'" in refused(*asked)
    assert "a pair" in run(*asked, "--other-pair")
    assert "no run in it was timed" in refused(folder / "trace.parquet")


@pytest.mark.parametrize("extracted", [True, False])
def test_a_run_is_enough(folder: Path, extracted: bool) -> None:
    """What the drafter would have said is found; costs come from the run's own times, plain decoding first."""
    from tests.metrics.test_fit_costs import simulate

    told = Trace.load(folder / "trace.parquet")
    gammas, parts = [0, 3, 5], []
    found = replay(told.match, told.lengths, gammas, limit=20)
    for gamma in gammas:
        runs, seconds = zip(*(simulate(found, s, gamma, "after", np.random.default_rng(0), 0.0) for s in range(20)))
        generations = [
            SimpleNamespace(
                token_ids=torch.tensor(row.target_ids), events=r.events,
                rounds=[SimpleNamespace(drafted=d, accepted=a, gained=g) for d, a, g in r.rounds],
            )
            for row, r in zip(told.rows, runs)
        ]  # fmt: skip
        prompts = [(row.sample, row.question) for row in told.rows]
        method = f"gamma {gamma}" if gamma else "plain"
        parts.append(trace_from_generations(generations, prompts, method, seconds, max_new_tokens=20))
    Trace.join(parts).save(folder / "runs/08/trace.parquet")
    assert "`egptlib run 04` there makes one" in refused(folder / "runs/08")
    beside = (
        folder / "runs/shared/hidden_states/states/trace.parquet" if extracted else folder / "runs/08/agreement.parquet"
    )
    told.save(beside)
    run(folder / "runs/08", "--gamma", "5", "--out", folder / "out.csv")
    if not extracted:
        replace(told, rows=[replace(told.rows[0], question="another?")]).save(beside)
        assert "not among those timed" in refused(folder / "runs/08")
    clock = sum(row.total_seconds or 0.0 for row in parts[2].rows)
    assert pd.read_csv(folder / "out.csv")["seconds an answer"][0] == pytest.approx(
        clock / 20, rel=0.01
    )  # rare sizes are interpolated


def test_a_recorded_file_says_why_it_cannot_tell(recorded: Path) -> None:
    opened = 0
    for path in sorted(recorded.rglob("*.json")):
        if path.name == "expected_aggregates.json":
            continue
        assert f"{path}: " in refused(path, "--gamma", "8") and open_recorded(path).why_not_replayed
        opened += 1
    assert opened > 30
