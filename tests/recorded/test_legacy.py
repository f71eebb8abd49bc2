"""The earlier estimates against the recorded files they are in, and mended against what those files say."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.recorded.legacy_estimates import legacy_estimate


def results(shared: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((shared / "recorded" / name).read_text())["results"]


def test_verified_for_free(shared: Path) -> None:
    rows = results(shared, "parallel_metrics_gamma5_4bit_20260126_003830.json")
    found = [legacy_estimate("verified_for_free", row) for row in rows]
    for row, estimate in zip(rows, found, strict=True):
        assert estimate.figures == pytest.approx({k: row[k] for k in ("speedup", "ideal_speedup")})
        assert estimate.mended["speedup"] <= estimate.figures["ideal_speedup"]
    assert round(fmean(e.figures["speedup"] for e in found), 2) == 9.34
    # 1.09 in finding C6, which takes every answer as 56 tokens long; they have 56 to 81.
    assert fmean(e.mended["speedup"] for e in found) == pytest.approx(1.076, abs=0.001)
    alike = [legacy_estimate("verified_for_free", row | {"output_tokens": [0] * 56}) for row in rows]
    assert round(fmean(e.mended["speedup"] for e in alike), 2) == 1.09
    assert found[0].finding == "C6" and "left out" in found[0].reason


def test_window_with_loading(shared: Path) -> None:
    short = results(shared, "five_stage_seq2s_20260127_204018.json")
    long = results(shared, "five_stage_seq20s_20260127_115908_semantic_metric.json")
    windows = []
    for rows in (short, long):
        found = [legacy_estimate("window_with_loading", row) for row in rows]
        for row, estimate in zip(rows, found, strict=True):
            for name in ("overlap_window", "hidden_tokens", "parallel_speedup"):
                assert estimate.figures[name] == pytest.approx(row["parallel"][name]), name
            assert estimate.mended["parallel_speedup"] <= 1 + 1e-9  # nothing is accepted, nothing is gained
        windows.append([fmean(getattr(e, k)["overlap_window"] for e in found) for k in ("figures", "mended")])
    assert windows[1][0] > 2 * windows[0][0]
    assert windows[1][1] == pytest.approx(windows[0][1], rel=0.05)  # the models' own window does not grow
    ratio = fmean(r["videollava"]["total_time"] for r in long) / fmean(r["eventgpt"]["total_time"] for r in long)
    assert round(ratio, 2) == 3.99
    estimate = legacy_estimate("window_with_loading", long[0])
    assert estimate.figures["target_over_drafter"] == pytest.approx(
        long[0]["videollava"]["total_time"] / long[0]["eventgpt"]["total_time"]
    )


def test_assumed_times(shared: Path) -> None:
    files = sorted((shared / "recorded" / "adapters").glob("*_acceptance_metrics.json"))
    assert len(files) >= 9
    for file in files:
        recorded = json.loads(file.read_text())
        estimate = legacy_estimate("assumed_times", recorded)
        for name, value in estimate.figures.items():
            assert value == pytest.approx(recorded[name], rel=1e-6), (file.name, name)
        assert estimate.finding == "C11"
        assert estimate.mended["speedup_prefill"] <= estimate.figures["speedup_prefill"]
        assert estimate.mended["speedup_decode_gamma5"] <= 6 / (5 * 10.4 / 14.9 + 1)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        legacy_estimate("ideal", {})
    with pytest.raises(KeyError, match="vl_total_time"):
        legacy_estimate("verified_for_free", {})
    empty = {
        "vl_total_time": 1.0,
        "egpt_complete_time": 0.1,
        "vl_prefill_time": 0.3,
        "vl_generation_time": 0.7,
        "draft_time": 0.1,
        "draft_tokens": 0,
        "tokens_to_verify": 0,
        "accepted_tokens": 0,
        "output_tokens": [],
    }
    with pytest.raises(ValueError, match="no tokens"):
        legacy_estimate("verified_for_free", empty)
