"""Which option an answer names, over many wordings, and the score of made answers."""

import numpy as np
import pytest

from egptlib.measuring import chosen_option, score_choices
from egptlib.scenes import Scene
from egptlib.scenes._questions import ask_choice, choice_text

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
