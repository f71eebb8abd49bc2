"""Openers against the figures of the recorded runs (where they are given), and against damaged files."""

import copy
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from egptlib.metrics import token_acceptance
from egptlib.recorded import open_recorded
from egptlib.recorded._findings_tokens import blocks, position_majority
from tests.recorded.legacy_estimates import legacy_estimate


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_every_recorded_file_opens(recorded: Path) -> None:
    files = [p for p in recorded.rglob("*.json") if p.name != "expected_aggregates.json"]
    kinds = {open_recorded(path).kind for path in files}
    assert len(kinds) == 14


def test_token_ids(recorded: Path, expected: dict[str, Any]) -> None:
    file, want = open_recorded(recorded / "test_tokens_1q.json"), expected["test_tokens_1q"]
    drafter, target = file.column("drafter_ids"), file.column("target_ids")
    found = token_acceptance(drafter, target)
    assert found["positional_matches"] == want["positional_matches"]
    assert found["positions_compared"] == want["positions_compared"]
    assert {str(k): v for k, v in found["accepted_prefix_histogram"].items()} == want["accepted_prefix_histogram"]
    assert mean([len(ids) for ids in drafter]) == want["mean_egpt_len"]
    assert mean([len(ids) for ids in target]) == want["mean_vl_len"]
    assert sum(ids[-1] == 2 for ids in drafter) == want["egpt_ending_in_eos(2)"]
    assert max(map(max, drafter + target)) == want["max_token_id"]
    majority = position_majority(target, blocks([0, 550, len(target)]))
    assert majority == pytest.approx(want["per_position_majority_predictor_on_vl[1:]_2fold_contiguous"])


@pytest.mark.parametrize("name", ["113610_LVL", "040508_gamma5", "033813_16configs_10samples"])
def test_wall_clock_runs(recorded: Path, expected: dict[str, Any], name: str) -> None:
    file = open_recorded(recorded / f"e2e_wallclock_20260207_{name}.json")
    want = expected[f"e2e_wallclock_20260207_{name}.json"]
    base = [row for row in file.rows if row["method"] == "baseline"]
    assert len(base) == want["n"]
    assert 1e3 * mean([row["total_seconds"] for row in base]) == pytest.approx(want["baseline_total_ms"])
    for stage in ("prefill", "decode"):
        found = 1e3 * mean([row["target_stages"][stage] for row in base])
        assert found == pytest.approx(want[f"baseline_{stage}_ms"])
    steps = sum(row["num_tokens"] - 1 for row in base)
    step = 1e3 * sum(row["target_stages"]["decode"] for row in base) / steps
    assert step == pytest.approx(want["baseline_decode_ms_per_step"])
    for lane, key in (("drafter", "eventgpt"), ("target", "videollava")):
        timing, its = file.extra["stage_timing"][lane], want["stage_timing"][key]
        assert [1e3 * timing[s] for s in ("vision", "prefill", "step")] == pytest.approx(
            [its["vision_ms"], its["prefill_ms"], its["per_token_ms"]]
        )
    for method, figures in want["configs"].items():
        rows = [row for row in file.rows if row["method"] == method]
        total = sum(row["total_seconds"] for row in rows)
        assert sum(row["baseline_seconds"] for row in rows) / total == pytest.approx(figures["speedup_ratio_of_sums"])
        assert mean([row["recorded_speedup"] for row in rows]) == pytest.approx(figures["speedup_mean_of_ratios"])
        pooled = sum(row["accepted"] for row in rows) / sum(row["drafted"] for row in rows)
        assert pooled == pytest.approx(figures["accept_rate_pooled"])
        assert sum(row["identical"] for row in rows) == figures["output_text_identical_to_baseline"]
        ratios = [row["recorded_speedup"] for row in rows]
        assert (min(ratios), max(ratios)) == pytest.approx((figures["speedup_min"], figures["speedup_max"]))
        assert mean([r < 1 for r in ratios]) == pytest.approx(figures["fraction_slower"])
        for name in ("drafted", "accepted"):
            assert mean([row[name] for row in rows]) == pytest.approx(figures[f"mean_{name}"])
        for row in rows:
            first = row["prefill_seconds"]
            if method == "B1-only":
                first = row["target_stages"]["prefill"]
            elif "gap_seconds" not in row:
                first += row["drafter_stages"]["decode"]
            assert row["total_seconds"] == pytest.approx(first + row["decode_seconds"])
            assert row["recorded_speedup"] == pytest.approx(row["baseline_seconds"] / row["total_seconds"])
        if "mean_gap_ms" in figures:
            assert 1e3 * mean([row["gap_seconds"] for row in rows]) == pytest.approx(figures["mean_gap_ms"])
            adapter = mean([row["drafter_stages"]["adapter"] for row in rows])
            assert 1e3 * adapter == pytest.approx(figures["mean_adapter_ms"])
            assert mean([row["free_tokens"] for row in rows]) == pytest.approx(figures["mean_num_free_tok"])
            a_token = 1e3 * mean([row["drafter_step_seconds"] for row in rows])
            assert a_token == pytest.approx(figures["mean_egpt_per_token_ms"])
            assert all(row["drafted"] == row["free_tokens"] - 1 for row in rows)


@pytest.mark.parametrize(
    "name", ["five_stage_seq2s_20260127_204018.json", "five_stage_seq20s_20260127_115908_semantic_metric.json"]
)
def test_five_stages(recorded: Path, expected: dict[str, Any], name: str) -> None:
    file, want = open_recorded(recorded / name), expected[name]
    assert (len(file), file.extra["dataset"]) == (want["n"], want["dataset"])
    for lane, short in (("drafter", "egpt"), ("target", "vl")):
        stages = file.column(f"{lane}_stages")
        found = [1e3 * mean([row[stage] for row in stages]) for stage in stages[0]]
        assert found == pytest.approx(want[f"{short}_stage_ms"])
        assert 1e3 * mean([sum(row.values()) for row in stages]) == pytest.approx(want[f"{short}_total_ms"])
        assert 1e3 * mean(file.column(f"{lane}_step_seconds")) == pytest.approx(want[f"{short}_ms_per_token"])
    assert set(file.column("target_prompt_length")) == {2076}
    assert mean(file.column("recorded_target_prompt_length")) == want["vl_prefill_length_recorded"]
    kv_positions = mean(file.column("inference_mb")) / 0.5
    assert kv_positions == pytest.approx(want["vl_kv_positions_implied_by_inference_delta_mb/0.5"])
    assert 1e3 * mean(file.column("recorded_window_seconds")) == pytest.approx(want["overlap_window_ms_recorded"])
    assert mean(file.column("recorded_hidden_tokens")) == pytest.approx(want["hidden_tokens_recorded"])
    windows = [
        sum(row["target_stages"][s] - row["drafter_stages"][s] for s in ("vision", "prefill")) for row in file.rows
    ]
    assert 1e3 * mean(windows) == pytest.approx(want["compute_only_window_ms(stages 3+4)"])
    free = [window / step for window, step in zip(windows, file.column("drafter_step_seconds"))]
    assert mean(free) == pytest.approx(want["compute_only_free_tokens"])
    both = want["recorded_parallel_speedup_vs_running_both_models"]
    assert mean(file.column("recorded_speedup")) == pytest.approx(both)
    alone = [sum(r["target_stages"].values()) / r["recorded_wall_seconds"] for r in file.rows]
    assert mean(alone) == pytest.approx(want["speedup_vs_videollava_alone"])
    assert mean(file.column("recorded_acceptance")) == pytest.approx(want["acceptance_rate_recorded"])
    if "acceptance_without_BOS" in want:
        rows = list(zip(file.column("recorded_matches"), file.column("recorded_compared")))
        assert mean([(m - 1) / (n - 1) for m, n in rows]) == pytest.approx(want["acceptance_without_BOS"])
        assert mean([m == 1 for m, _ in rows]) == pytest.approx(want["fraction_where_only_BOS_matched"])
        ids = token_acceptance(file.column("drafter_ids"), file.column("target_ids"))
        assert ids["accepted_prefix_mean"] == pytest.approx(want["accepted_prefix_mean"])


def test_prefills_side_by_side(recorded: Path, expected: dict[str, Any]) -> None:
    file = open_recorded(recorded / "parallel_prefill_4bit_20260126_000542.json")
    want = expected["both_4bit_10samples"]
    drafter, target = file.column("drafter_stages"), file.column("target_stages")
    figures = {
        "egpt_vision_prefill_ms": 1e3 * mean([s["vision"] + s["prefill"] for s in drafter]),
        "egpt_prefill_ms": 1e3 * mean([s["prefill"] for s in drafter]),
        "egpt_generation_ms": 1e3 * mean([s["decode"] for s in drafter]),
        "egpt_tokens": mean(file.column("drafter_num_tokens")),
        "vl_prefill_ms": 1e3 * mean([s["prefill"] for s in target]),
        "vl_generation_ms": 1e3 * mean([s["decode"] for s in target]),
        "overlap_ms": 1e3 * mean(file.column("recorded_window_seconds")),
        "free_tokens": mean(file.column("recorded_free_tokens")),
    }
    assert figures == pytest.approx(want)


def test_figures_above_their_own_ideal(recorded: Path, expected: dict[str, Any]) -> None:
    path = recorded / "parallel_metrics_gamma5_4bit_20260126_003830.json"
    file, want = open_recorded(path), expected["parallel_metrics_gamma5"]
    speedups, ideals = file.column("recorded_speedup"), file.column("recorded_ideal")
    assert len(file) == want["n"]
    assert mean(speedups) == pytest.approx(want["speedup_mean"])
    assert mean(ideals) == pytest.approx(want["ideal_mean"])
    assert sum(s > i + 1e-9 for s, i in zip(speedups, ideals)) == want["n_with_speedup_above_ideal"]
    for row, result in zip(file.rows, json.loads(path.read_text())["results"]):
        again = legacy_estimate("verified_for_free", result).figures
        assert again["speedup"] == pytest.approx(row["recorded_speedup"])
        assert again["ideal_speedup"] == pytest.approx(row["recorded_ideal"])
    charged = [
        r["baseline_seconds"]
        / (
            max(r["drafter_prefill_seconds"], r["target_stages"]["prefill"])
            + r["target_stages"]["decode"] * (1 - r["accepted"] / 56)
        )
        for r in file.rows
    ]
    name = "corrected(no verify cost): vl_total/(max prefill + gen - accepted*gen/56)"
    assert mean(charged) == pytest.approx(want[name])


def test_semantic_score(recorded: Path, expected: dict[str, Any]) -> None:
    file = open_recorded(recorded / "acceptance_rate_gamma5_4bit_20260126_013606.json")
    want = expected["acceptance_semantic_100"]
    assert len(file) == want["n"]
    for name in ("acceptance_estimate", "word_overlap", "char_similarity"):
        assert mean(file.column(name)) == pytest.approx(want[f"{name}_mean"])
    for row in file.rows:
        assert row["acceptance_estimate"] == (row["word_overlap"] + row["char_similarity"]) / 2


@pytest.mark.parametrize("level", ["B1", "L1", "L2", "L3", "L4", "L4_1f", "L4_5f_retrained", "L5", "L5F"])
def test_adapters(recorded: Path, expected: dict[str, Any], level: str) -> None:
    metrics = open_recorded(recorded / "adapters" / f"{level}_acceptance_metrics.json").rows[0]
    positions = open_recorded(recorded / "adapters" / f"{level}_position_stats.json").rows
    want = dict(expected[f"adapter_{level}"])
    weighted = sum(p["mean"] * p["num_samples"] for p in positions) / sum(p["num_samples"] for p in positions)
    assert weighted == pytest.approx(want.pop("cos_sim_mean_from_position_stats"))
    assert [round(p["accept_90"], 4) for p in positions[:10]] == want.pop("accept_90_by_position_0..9")
    assert {name: metrics[name] for name in want} == want


def test_llava15_is_not_video_llava(recorded: Path, expected: dict[str, Any]) -> None:
    file = open_recorded(recorded / "llava15_8img_vs_eventgpt_1frame_20260124_175006.json")
    stages = {lane: [r["stages"] for r in file.rows if r["lane"] == lane] for lane in ("drafter", "target")}
    prefill = {lane: 1e3 * mean([s["prefill"] for s in rows]) for lane, rows in stages.items()}
    step = 1e3 * mean([s["decode"] for s in stages["drafter"]]) / file.extra["decoded_tokens"]
    read = mean([s["vision"] + s["prefill"] for s in stages["target"]])
    window = prefill["target"] - prefill["drafter"]
    figures = {
        "n": len(stages["drafter"]),
        "egpt_prefill_ms": prefill["drafter"],
        "target_prefill_ms": prefill["target"],
        "ratio": prefill["target"] / prefill["drafter"],
        "window_ms": window,
        "egpt_ms_per_token(5 tokens)": step,
        "free_tokens": window / step,
        "prefill_share_at_5_tokens": read / (read + mean([s["decode"] for s in stages["target"]])),
    }
    assert figures == pytest.approx(expected["llava15_8img"])
    assert {r["prompt_length"] for r in file.rows if r["lane"] == "target"} == {4643}


def test_token_adapter_is_shifted_by_one(recorded: Path, expected: dict[str, Any]) -> None:
    file = open_recorded(recorded / "token_adapter_full_benchmark_20260129_225244.json")
    want = expected["token_adapter_full_benchmark"]
    shifted = [ids[1:] for ids in file.column("target_ids")]
    found = token_acceptance(file.column("adapted_ids"), shifted)
    assert found["accepted_prefix_mean"] == pytest.approx(want["consecutive_shift1_mean"])
    assert found["positional_match_rate"] == pytest.approx(want["match_rate_shift1"])
    assert token_acceptance(file.column("adapted_ids"), file.column("target_ids"))["accepted_prefix_mean"] == 0
    histogram = {str(k): v for k, v in found["accepted_prefix_histogram"].items()}
    assert histogram == want["consecutive_shift1_histogram"]
    unshifted = token_acceptance(file.column("adapted_ids"), file.column("target_ids"))
    assert unshifted["positional_match_rate"] == pytest.approx(want["match_rate_shift0"])
    raw = token_acceptance(file.column("drafter_ids"), file.column("target_ids"))
    assert raw["accepted_prefix_mean"] == want["raw_egpt_prefix_mean"]
    assert any("vl_tokens[1:]" in trap for trap in file.traps)


def test_verified_drafts(recorded: Path, expected: dict[str, Any]) -> None:
    for name in ("sd_eval_20260129_222146.json", "sd_eval_20260129_222534.json"):
        file, want = open_recorded(recorded / name), expected[name]
        assert mean(file.column("recorded_speedup")) == pytest.approx(want["speedup_mean"])
        assert 1e3 * mean(file.column("verify_seconds")) == pytest.approx(want["vl_verify_ms_mean"])
        assert sum(file.column("identical")) == want["output_matches"]
        assert median(file.column("recorded_speedup")) == pytest.approx(want["speedup_median"])
        for row in file.rows:
            target = row["target_stages"]
            parts = target["prefill"] + row["verify_seconds"] + target["decode"]
            assert row["total_seconds"] == pytest.approx(parts)
        shifted = [ids[1:] for ids in file.column("target_ids")]
        prefixes = token_acceptance(file.column("adapted_ids"), shifted)["accepted_prefix_histogram"]
        assert prefixes == Counter(want["adapter_prefix_vs_vl[1:]"])


def test_milliseconds_and_seconds_are_told_apart(recorded: Path) -> None:
    fast = open_recorded(recorded / "e2e_wallclock_20260207_113610_LVL.json").rows[0]["target_stages"]["prefill"]
    slow = open_recorded(recorded / "five_stage_seq2s_20260127_204018.json").rows[0]["target_stages"]["prefill"]
    assert 0.25 < fast < 0.45
    assert 0.25 < slow < 0.45


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"results": [', "not valid JSON"),
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
    with pytest.raises(ValueError, match="not valid JSON"):
        open_recorded(tmp_path / "r.json")


_WRONG: list[Any] = [None, ["x"]]


def small(value: Any) -> Any:
    """A recorded file with its lists cut to the first of each."""
    if isinstance(value, dict):
        return {name: small(part) for name, part in value.items()}
    return [small(part) for part in value[:1]] if isinstance(value, list) else value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a file could be damaged: every field of it, and of the first record of every list."""
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[:1]
    else:
        return
    for name, part in items:
        yield (*path, name)
        yield from places(part, (*path, name))


def test_every_field_may_be_damaged(recorded: Path, tmp_path: Path) -> None:
    """A file with one field missing or of another kind opens, where nothing needs it, or says so in one line."""
    by_kind: dict[str, Path] = {}
    for path in recorded.rglob("*.json"):
        if path.name != "expected_aggregates.json":
            by_kind.setdefault(open_recorded(path).kind, path)
    refused = 0
    for path in by_kind.values():
        whole = small(json.loads(path.read_text()))
        if "sd_per_sample" in whole:
            whole["sd_per_sample"] = dict(list(whole["sd_per_sample"].items())[:1])
        for place in places(whole):
            for wrong in _WRONG:
                damaged = copy.deepcopy(whole)
                part = damaged
                for name in place[:-1]:
                    part = part[name]
                part[place[-1]] = wrong
                (tmp_path / path.name).write_text(json.dumps(damaged))
                try:
                    open_recorded(tmp_path / path.name)
                except ValueError as error:
                    assert str(error).startswith(str(tmp_path / path.name)), (place, wrong)
                    assert "\n" not in str(error)
                    refused += 1
    assert refused > 200
