"""Openers against the figures of the recorded runs (where they are given), and against damaged files."""

import json
from pathlib import Path
from typing import Any

import pytest

from egptlib.metrics import token_acceptance
from egptlib.traces import open_recorded


@pytest.fixture(scope="module")
def recorded(shared: Path) -> Path:
    folder = shared / "recorded"
    if not folder.is_dir():
        pytest.skip(f"recorded runs not found: {folder}")
    return folder


@pytest.fixture(scope="module")
def expected(recorded: Path) -> dict[str, Any]:
    return json.loads((recorded / "expected_aggregates.json").read_text())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_every_recorded_file_opens(recorded: Path) -> None:
    files = [p for p in recorded.rglob("*.json") if p.name != "expected_aggregates.json"]
    kinds = {open_recorded(path).kind for path in files}
    assert len(kinds) == 14


def test_token_ids(recorded: Path, expected: dict[str, Any]) -> None:
    file, want = open_recorded(recorded / "test_tokens_1q.json"), expected["test_tokens_1q"]
    found = token_acceptance(file.column("drafter_ids"), file.column("target_ids"))
    assert found["positional_matches"] == want["positional_matches"]
    assert found["positions_compared"] == want["positions_compared"]
    assert {str(k): v for k, v in found["accepted_prefix_histogram"].items()} == want["accepted_prefix_histogram"]


@pytest.mark.parametrize("name", ["113610_LVL", "040508_gamma5", "033813_16configs_10samples"])
def test_wall_clock_runs(recorded: Path, expected: dict[str, Any], name: str) -> None:
    file = open_recorded(recorded / f"e2e_wallclock_20260207_{name}.json")
    want = expected[f"e2e_wallclock_20260207_{name}.json"]
    base = [row for row in file.rows if row["method"] == "baseline"]
    assert len(base) == want["n"]
    assert 1e3 * mean([row["total_seconds"] for row in base]) == pytest.approx(want["baseline_total_ms"])
    for method, figures in want["configs"].items():
        rows = [row for row in file.rows if row["method"] == method]
        total = sum(row["total_seconds"] for row in rows)
        assert sum(row["baseline_seconds"] for row in rows) / total == pytest.approx(figures["speedup_ratio_of_sums"])
        assert mean([row["recorded_speedup"] for row in rows]) == pytest.approx(figures["speedup_mean_of_ratios"])
        pooled = sum(row["accepted"] for row in rows) / sum(row["drafted"] for row in rows)
        assert pooled == pytest.approx(figures["accept_rate_pooled"])
        assert sum(row["identical"] for row in rows) == figures["output_text_identical_to_baseline"]
        if "mean_gap_ms" in figures:
            assert 1e3 * mean([row["gap_seconds"] for row in rows]) == pytest.approx(figures["mean_gap_ms"])
            adapter = mean([row["drafter_stages"]["adapter"] for row in rows])
            assert 1e3 * adapter == pytest.approx(figures["mean_adapter_ms"])


@pytest.mark.parametrize(
    "name", ["five_stage_seq2s_20260127_204018.json", "five_stage_seq20s_20260127_115908_semantic_metric.json"]
)
def test_five_stages(recorded: Path, expected: dict[str, Any], name: str) -> None:
    file, want = open_recorded(recorded / name), expected[name]
    stages = ("load", "preprocess", "vision", "prefill", "decode")
    for lane, key in (("drafter", "egpt_stage_ms"), ("target", "vl_stage_ms")):
        found = [1e3 * mean([row[f"{lane}_stages"][stage] for row in file.rows]) for stage in stages]
        assert found == pytest.approx(want[key])
    assert set(file.column("target_prompt_length")) == {2076}
    kv_positions = mean(file.column("inference_mb")) / 0.5
    assert kv_positions == pytest.approx(want["vl_kv_positions_implied_by_inference_delta_mb/0.5"])
    assert mean(file.column("recorded_acceptance")) == pytest.approx(want["acceptance_rate_recorded"])
    if "acceptance_without_BOS" in want:
        rows = zip(file.column("recorded_matches"), file.column("recorded_compared"))
        assert mean([(m - 1) / (n - 1) for m, n in rows]) == pytest.approx(want["acceptance_without_BOS"])


def test_token_adapter_is_shifted_by_one(recorded: Path, expected: dict[str, Any]) -> None:
    file = open_recorded(recorded / "token_adapter_full_benchmark_20260129_225244.json")
    want = expected["token_adapter_full_benchmark"]
    shifted = [ids[1:] for ids in file.column("target_ids")]
    found = token_acceptance(file.column("adapted_ids"), shifted)
    assert found["accepted_prefix_mean"] == pytest.approx(want["consecutive_shift1_mean"])
    assert found["positional_match_rate"] == pytest.approx(want["match_rate_shift1"])
    assert token_acceptance(file.column("adapted_ids"), file.column("target_ids"))["accepted_prefix_mean"] == 0
    assert any("vl_tokens[1:]" in trap for trap in file.traps)


def test_verified_drafts(recorded: Path, expected: dict[str, Any]) -> None:
    for name in ("sd_eval_20260129_222146.json", "sd_eval_20260129_222534.json"):
        file, want = open_recorded(recorded / name), expected[name]
        assert mean(file.column("recorded_speedup")) == pytest.approx(want["speedup_mean"])
        assert 1e3 * mean(file.column("verify_seconds")) == pytest.approx(want["vl_verify_ms_mean"])
        assert sum(file.column("identical")) == want["output_matches"]


def test_milliseconds_and_seconds_are_told_apart(recorded: Path) -> None:
    fast = open_recorded(recorded / "e2e_wallclock_20260207_113610_LVL.json").rows[0]["target_stages"]["prefill"]
    slow = open_recorded(recorded / "five_stage_seq2s_20260127_204018.json").rows[0]["target_stages"]["prefill"]
    assert 0.25 < fast < 0.45
    assert 0.25 < slow < 0.45


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged or cut off"),
        ('{"results": [', "damaged or cut off"),
        ("[1, 2]", "no known result file"),
        ('{"results": []}', "no known result file"),
        (
            '{"results": [{"egpt_tokens": [1], "vl_tokens": [1], "sample_idx": 0}]}',
            r"results\[0\]: query: expected a text",
        ),
        (
            '{"results": [{"egpt_tokens": ["x"], "vl_tokens": [1], "sample_idx": 0, "query": "q"}]}',
            r"results\[0\]: egpt_tokens: expected a list of token ids",
        ),
        ('{"baseline_per_sample": [], "sd_per_sample": {}}', "baseline_per_sample: expected a list of records"),
        (
            '{"baseline_per_sample": [{"sample": 0, "question": "q", "n_tokens": 3, "prefill_ms": -1}],'
            ' "sd_per_sample": {}}',
            "prefill_ms: expected a time of 0 or more, found -1",
        ),
    ],
)
def test_unknown_and_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        open_recorded(tmp_path / "r.json")
    assert "r.json" in str(raised.value)


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="not a text file"):
        open_recorded(tmp_path / "r.json")
