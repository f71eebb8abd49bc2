"""What a lossy run changed: answers that are no longer the target's own, and facts that became wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from egptlib.scenes import read_slots


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
