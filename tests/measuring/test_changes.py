"""What a lossy run changed, counted; and one vocabulary under both real models, on recorded texts."""

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from egptlib.measuring import Changes, chosen_option, compare_answers, compare_scenes, score_choices
from egptlib.scenes import Scene
from egptlib.scenes._questions import QUESTIONS, ask_choice, choice_text
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


OPTIONS = ("A car.", "A person.", "Two dogs", "Nothing")


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("(B) A person.", 1),
        ("B", 1),
        ("b.", 1),
        ("C) Two dogs", 2),
        ("Best option: (D", 3),
        ("The correct answer is D.", 3),
        ("The answer is C: Two dogs\nbecause ...", 2),
        ("A car.", 0),
        ("a person", 1),  # its own words, not the letter A
        ("A", 0),
        ("There are two dogs in the scene.", 2),
        ("A person and two dogs", None),
        ("A cat.", None),
        ("(E) A cat", None),
        ("Nothingness", None),
        ("", None),
    ],
)
def test_the_option_that_an_answer_names(text: str, option: int | None) -> None:
    assert chosen_option(text, OPTIONS) == option


def test_score() -> None:
    ask, frames = [ask_choice("What moves?", OPTIONS), "What is this?"], np.zeros((8, 4, 4, 3), np.uint8)
    answers = (choice_text(2, "Two dogs"), "A street.")
    scene = Scene("a", "a", [], frames, tuple(ask), answers, choices=(OPTIONS, ()))
    open_ended = Scene("b", "b", [], frames, ("What is this?",), ("A street.",))
    told = [(scene, ask[0], text) for text in ("(C)", "two dogs", "(A)", "well")]
    score = score_choices([*told, (scene, ask[1], "(C)"), (open_ended, "What is this?", "(C)")])
    assert (score.questions, score.chosen, score.right, score.chance, score.accuracy) == (4, 3, 2, 0.25, 0.5)
    assert score_choices([(open_ended, "What is this?", "x")]).questions == 0
