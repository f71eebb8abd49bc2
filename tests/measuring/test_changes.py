"""What a lossy run changed, counted; and one vocabulary under both real models, on recorded texts."""

import json
from pathlib import Path

import pytest
import sentencepiece

from egptlib.measuring import Changes, compare_answers, compare_scenes
from egptlib.scenes._questions import QUESTIONS
from egptlib.scenes.streets._answers import _SLOTS


def answer(slot: str, value: str) -> tuple[str, str]:
    question, phrases = _SLOTS[slot]
    return QUESTIONS[question], f"It is {phrases[value].strip()} here."


def test_changes() -> None:
    slot = "surroundings"
    right, wrong = list(_SLOTS[slot][1])[:2]
    (question, good), (_, bad) = answer(slot, right), answer(slot, wrong)
    own, truth = {question: good, "other": "x"}, {slot: right}
    assert compare_answers(own, own, truth) == Changes(2, 0, 1, 1, 0, 0)
    assert compare_answers({question: bad, "other": "x"}, own, truth) == Changes(2, 1, 1, 1, 1, 0)
    assert compare_answers(own, {question: bad, "other": "x"}, truth) == Changes(2, 1, 1, 0, 0, 1)
    assert compare_answers({question: bad, "other": "y"}, own) == Changes(2, 2)
    total = compare_scenes([own, {question: bad, "other": "x"}], [own, own], [truth, truth])
    assert total == Changes(4, 1, 2, 2, 1, 0)
    with pytest.raises(ValueError, match="only one side has 'other'"):
        compare_answers({question: good}, own)


def test_both_real_models_speak_one_vocabulary(shared: Path) -> None:
    """1,600 recorded answers: Llama's tokenizer gives each model's recorded ids from its text (findings C1)."""
    processor = sentencepiece.SentencePieceProcessor(str(shared / "golden" / "llama_tokenizer.model"))
    results = json.loads((shared / "recorded" / "test_tokens_1q.json").read_text())["results"]
    compared = 0
    for result in results:
        for model in ("egpt", "vl"):
            ids = [token for token in result[f"{model}_tokens"] if token != processor.eos_id()]
            assert processor.encode(result[f"{model}_text"]) == ids
            compared += 1
    assert compared == 1600
