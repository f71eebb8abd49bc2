"""Predictions of the recorded real runs, and FINDINGS.md against the files it was made from."""

import random
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import sentencepiece

from egptlib.adapters import load_adapter
from egptlib.recorded import findings_document, open_recorded, predict_other_half
from egptlib.recorded._findings_tokens import blocks, position_majority


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


def test_the_committed_document_is_what_the_files_say(recorded: Path, shared: Path, repository: Path) -> None:
    encode = sentencepiece.SentencePieceProcessor(str(shared / "golden" / "llama_tokenizer.model")).encode
    l4 = load_adapter(shared / "golden" / "legacy_adapters" / "L4.pt")
    committed = (repository / "roadmap" / "FINDINGS.md").read_text(encoding="utf-8")
    assert committed == findings_document(recorded, encode, l4), "stale: run `egptlib findings`"
    assert re.findall(r"^## (C\d+):", committed, re.MULTILINE) == [f"C{i}" for i in range(1, 21)]
    bare = findings_document(recorded)
    assert "## C1:" not in bare and "## C19:" not in bare


@pytest.mark.parametrize(
    "claim",
    [
        "2,476 of 2,476",  # C1: both models, one and two seconds, and 20 seconds
        "15,039 of 53,900 = 27.9%",  # C3
        "scores 25.0%",
        "mean 2.48, {0: 41, 1: 29, 5: 19, 11: 10, 14: 1}",  # C4
        "1.076x on average",  # C6
        "27.0 tokens of 18.6 ms",  # C7
        "timed 0.31 to 0.37x [measured (overlapped)]",  # C12
        "L1 1.0007, L2 1.0094, L3 1.0083, L4 1.0128 [computed overlap]",  # C13
        "8 of the 8 outputs before it",  # C19
    ],
)
def test_figures_known_from_elsewhere(repository: Path, claim: str) -> None:
    assert claim in (repository / "roadmap" / "FINDINGS.md").read_text(encoding="utf-8")


def test_blocks_keep_neighbours_together() -> None:
    assert blocks([0, 2, 5]) == [([2, 3, 4], [0, 1]), ([0, 1], [2, 3, 4])]
    answers = [[9, 1, 2], [9, 1, 3], [9, 4, 3], [9, 4, 2], [9, 4, 2]]
    # Fitted on the last three: 4 and 2, of which one in four places is right; on the first two: 1 and 2 (the first
    # of equally frequent ones), of which two in six.
    assert position_majority(answers, blocks([0, 2, 5])) == pytest.approx(3 / 10)
