"""What answers are worth: facts that a lossy run changed, and options of multiple-choice questions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from egptlib.scenes import Scene, read_slots


@dataclass(frozen=True)
class Changes:
    """Counts over scenes.

    Attributes:
        answers, changed: answers compared, and those whose words differ from the target's own.
        slots: true facts that the target's own answers could tell (the slots of `streets`).
        right: of these, told right by the target's own answers.
        became_wrong, became_right: told right before and wrong (or not at all) now, and the other way round.
    """

    answers: int = 0
    changed: int = 0
    slots: int = 0
    right: int = 0
    became_wrong: int = 0
    became_right: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def compare_answers(
    answers: Mapping[str, str], own: Mapping[str, str], truth: Mapping[str, str] | None = None
) -> Changes:
    """Compare the answers to one scene's questions with the target's own.

    Args:
        answers, own: question -> text, of the lossy run and of plain decoding.
        truth: slot -> value, `scene.metadata["slots"]` on `streets`; None where nothing is known.

    Raises:
        ValueError: the questions differ.
    """
    if answers.keys() != own.keys():
        odd = sorted(answers.keys() ^ own.keys())
        raise ValueError(f"answers: expected the same questions in both, only one side has {odd[0]!r}")
    changed = sum(answers[question] != own[question] for question in own)
    if truth is None:
        return Changes(len(own), changed)
    now, before = read_slots(dict(answers)), read_slots(dict(own))
    right_now = {slot for slot, value in truth.items() if now.get(slot) == value}
    right = {slot for slot, value in truth.items() if before.get(slot) == value}
    return Changes(len(own), changed, len(truth), len(right), len(right - right_now), len(right_now - right))


def compare_scenes(
    answers: Sequence[Mapping[str, str]],
    own: Sequence[Mapping[str, str]],
    truths: Sequence[Mapping[str, str] | None],
) -> Changes:
    """`compare_answers` summed over scenes."""
    parts = (compare_answers(*scene) for scene in zip(answers, own, truths, strict=True))
    return sum(parts, Changes())


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
