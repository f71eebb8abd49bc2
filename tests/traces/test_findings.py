"""Predictions of the recorded real runs, and FINDINGS.md against the files it was made from."""

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from egptlib.traces import findings_document, open_recorded, predict_other_half


@pytest.fixture(scope="module")
def recorded(shared: Path) -> Path:
    folder = shared / "recorded"
    if not folder.is_dir():
        pytest.skip(f"recorded runs not found: {folder}")
    return folder


def test_one_half_of_the_prompts_predicts_the_other(recorded: Path) -> None:
    file = open_recorded(recorded / "e2e_wallclock_20260207_113610_LVL.json")
    prompts = sum(row["method"] == "baseline" for row in file.rows)
    halves: list[Iterable[int]] = [range(prompts // 2), range(0, prompts, 2)]
    halves += [random.Random(seed).sample(range(prompts), prompts // 2) for seed in range(5)]
    for half in halves:
        results = predict_other_half(file, half)
        assert [r.method for r in results] == ["L1+VL", "L2+VL", "L3+VL", "L4+VL"]
        for result in results:
            assert abs(result.error) < 0.015
            assert abs(result.predicted_ratio - result.measured_ratio) < 0.01


def test_runs_that_shared_the_device_have_no_window(recorded: Path) -> None:
    with pytest.raises(ValueError, match="gap_ms"):
        predict_other_half(open_recorded(recorded / "e2e_wallclock_20260207_040508_gamma5.json"), range(100))


def test_the_committed_document_is_what_the_files_say(recorded: Path, repository: Path) -> None:
    committed = (repository / "roadmap" / "FINDINGS.md").read_text(encoding="utf-8")
    assert committed == findings_document(recorded), "stale: run `egptlib findings --recorded FOLDER`"
