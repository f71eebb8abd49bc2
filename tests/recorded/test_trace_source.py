"""Traces made of recorded files hold what the files say, as far as they say it."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.recorded import open_recorded, trace_from_recorded
from egptlib.traces import Trace, TraceRow


@pytest.mark.parametrize("name", ["test_tokens_1q", "five_stage_seq2s_20260127_204018"])
def test_recorded_answers(recorded: Path, name: str) -> None:
    file = open_recorded(recorded / f"{name}.json")
    trace = trace_from_recorded(file)
    assert trace.path == "free" and len(trace) == len(file)
    assert [row.target_ids for row in trace.rows] == file.column("target_ids")
    if file.kind == "five_stage":
        prefill = trace.stage_seconds("target", "prefill")
        assert 0.25 < prefill.mean() < 0.45
        assert {row.target_prompt_length for row in trace.rows} == {2076}


def test_recorded_rounds(recorded: Path, tmp_path: Path) -> None:
    file = open_recorded(recorded / "e2e_wallclock_20260207_113610_LVL.json")
    trace = trace_from_recorded(file)
    assert trace.methods == ["baseline", "L1+VL", "L2+VL", "L3+VL", "L4+VL"]
    hidden = trace.method("L4+VL")
    assert {row.tag for row in hidden.rows} == {"computed overlap"}
    for row in hidden.rows:
        assert sum(gained for *_, gained in row.rounds) == row.num_tokens
    assert sum(row.rounds[0][1] for row in hidden.rows) == sum(row["accepted"] for row in file.method("L4+VL"))
    trace.save(tmp_path / "t.parquet")
    assert Trace.load(tmp_path / "t.parquet").rows == trace.rows
    shared = trace_from_recorded(open_recorded(recorded / "e2e_wallclock_20260207_040508_gamma5.json"))
    assert {row.tag for row in shared.method("L1+VL").rows} == {"measured (overlapped)"}
    with pytest.raises(ValueError, match="token_adapter_training holds no answers"):
        trace_from_recorded(open_recorded(recorded / "token_adapter_results_1q_20260128_151847.json"))


def test_verbs_from_recorded_file_to_prediction(recorded: Path, tmp_path: Path) -> None:
    def run(*arguments: Any) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    source, timed, costs = (tmp_path / name for name in ("target.parquet", "timed.parquet", "costs.json"))
    output = run("trace", recorded / "e2e_wallclock_20260207_113610_LVL.json", "--out", timed)
    assert "1350 answers" in output and "note: the two models ran one after the other" in output
    output = run("fit-costs", timed, "--method", "L4+VL", "--after", "baseline", "--out", costs)
    assert "steps (ms): target 15.28, drafter 10.59" in output
    rows = [
        TraceRow("a", "What?", [5, 6, 7, 2], [5, 9, 7, 2]),
        TraceRow("b", "Why?", [4, 2], [4, 8]),
    ]
    Trace(rows, pair="eventgpt-videollava", end_token_ids=(2,)).save(source)
    output = run("predict", source, "--gamma", "2", "--free", "0", "--costs", costs)
    assert "2 answers, 6 tokens" in output and "best: gamma 2" in output and "[estimated]" in output
    assert "predicted, recorded, error" in run(
        "predict-recorded", recorded / "e2e_wallclock_20260207_113610_LVL.json", "--halves", "0"
    )
