"""Multiple-choice questions: which option an answer names, and how often that is the right one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from egptlib.scenes import Scene

# "(B) a car", "B.", "Best option: (B", "The answer is B"; not the article of "A car"
_LETTER = re.compile(
    r"\W*(?:(?:the )?(?:(?:best|correct|right) )?(?:option|answer)(?: is)?\W*)?([A-Z])\s*(?:[).:,]|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class ChoiceScore:
    """Counts over questions with options and a known answer.

    Attributes:
        questions: how many there are.
        chosen: answers that name one option; the others count as wrong.
        right: answers that name the right one.
        chance: share that guessing gets right, from the numbers of options.
    """

    questions: int = 0
    chosen: int = 0
    right: int = 0
    chance: float = float("nan")

    @property
    def accuracy(self) -> float:
        """Share of right answers; nan without questions."""
        return self.right / self.questions if self.questions else float("nan")


def chosen_option(text: str, choices: Sequence[str]) -> int | None:
    """Return which option an answer names, by its letter in front or by its words; None for none or several."""
    said = _plain(text)
    exact = [number for number, choice in enumerate(choices) if _plain(choice) == said]
    if exact:
        return exact[0]
    if match := _LETTER.match(text.strip().split("\n")[0]):
        number = ascii_uppercase.index(match[1].upper())
        return number if number < len(choices) else None
    named = [number for number, choice in enumerate(choices) if f" {_plain(choice)} " in f" {said} "]
    return named[0] if len(named) == 1 else None


def score_choices(answered: Iterable[tuple[Scene, str, str]]) -> ChoiceScore:
    """Score answers: scene, question (one of its own) and text. Questions without options or answer do not count."""
    chosen = right = 0
    chances = []
    for scene, question, text in answered:
        number = scene.questions.index(question)
        options = scene.choices[number] if scene.choices else ()
        if not options or scene.answers is None:
            continue
        option = chosen_option(text, options)
        chances.append(1 / len(options))
        chosen += option is not None
        right += option is not None and option == chosen_option(scene.answers[number], options)
    chance = sum(chances) / len(chances) if chances else float("nan")
    return ChoiceScore(len(chances), chosen, right, chance)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
