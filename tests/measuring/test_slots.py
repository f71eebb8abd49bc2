"""Facts that the models tell differently, and kinds of words, on answers written by hand."""

import re
from typing import Any

import pytest
import torch

from egptlib.hidden_states import HiddenSample
from egptlib.measuring import KIND_GROUPS, KINDS, slot_agreement, slot_rejections, word_kinds
from egptlib.measuring._slots import SLOT_KINDS
from egptlib.scenes import QUESTIONS
from egptlib.scenes.streets._answers import SLOTS, phrase_of, slot_values

VOCABULARY: list[str] = []


def encode(text: str) -> list[int]:
    """One token a word or mark, a space in front of it kept."""
    pieces = re.findall(r" ?[\w-]+|[^\w\s]", text)
    VOCABULARY.extend(piece for piece in dict.fromkeys(pieces) if piece not in VOCABULARY)
    return [VOCABULARY.index(piece) for piece in pieces]


def spelt(ids: list[int]) -> list[str]:
    return [VOCABULARY[i].replace(" ", "Ġ") for i in ids]


def sample(question: int, target: str, reference: str, wrong: dict[str, str], sequence: str = "a") -> HiddenSample:
    """`wrong`: word of the target's answer -> what the drafter says there instead."""
    ids = encode(target)
    drafter = list(ids)
    for word, instead in wrong.items():
        drafter[[VOCABULARY[i].strip() for i in ids].index(word)] = encode(f" {instead}" if word != "Yes" else instead)[
            0
        ]
    empty = torch.zeros(len(ids), 1)
    metadata: dict[str, Any] = {"question": QUESTIONS[question], "reference": reference, "sequence": sequence}
    return HiddenSample(empty, empty, torch.tensor(ids), torch.tensor(drafter), metadata=metadata)


def test_who_is_right_where_the_drafter_is_rejected() -> None:
    nearest = "The nearest is a red car driving ahead in the same lane."
    samples = [
        # The target is right on colour, the drafter is not.
        sample(4, nearest, nearest, {"red": "blue"}),
        # The target is wrong on colour and motion; the drafter begins the true motion and another wrong colour.
        sample(4, nearest, "The nearest is a white car parked on the left side.", {"red": "blue", "driving": "parked"}),
        # Agreed and true; a rejection behind the phrase does not count.
        sample(3, "The road is a straight two-lane road.", "The road is a straight two-lane road.", {"road": "street"}),
    ]
    rows = {row["slot"]: row for row in slot_rejections(samples, spelt)}
    assert (rows["colour"]["facts"], rows["colour"]["rate"], rows["colour"]["target_true"]) == (2, 1.0, 0.5)
    assert (rows["colour"]["rate_true"], rows["colour"]["rate_false"], rows["colour"]["drafter_true"]) == (
        1.0,
        1.0,
        0.0,
    )
    assert (rows["direction"]["rate"], rows["direction"]["drafter_true"]) == (0.5, 1.0)
    assert (rows["direction"]["rate_true"], rows["direction"]["rate_false"]) == (0.0, 1.0)
    assert (rows["kind"]["rate"], rows["kind"]["drafter_true"]) == (0.0, None)
    assert rows["lanes"]["kind"] == "count"


def test_a_question_about_one_fact_is_decided_from_its_first_word() -> None:
    told = "Yes, there is one vehicle."
    none = sample(7, told, "No, there are no vehicles visible.", {"Yes": "No"})
    more = sample(7, told, "Yes, there are two vehicles.", {"is": "are"})
    row = slot_rejections([none, more], spelt)[0]
    assert (row["slot"], row["rate"], row["drafter_true"], row["target_true"]) == ("vehicle count", 1.0, 1.0, 0.0)


def test_agreement_of_free_answers() -> None:
    def record(scene: str, drafter: str, target: str, reference: str) -> dict[str, str]:
        texts = {"drafter_text": drafter, "target_text": target, "reference": reference}
        return {"scene": scene, "sequence": scene, "question": QUESTIONS[6], **texts}

    one, two, none = "Yes, one pedestrian is here.", "Yes, two pedestrians are here.", "No, there are no pedestrians."
    rows = slot_agreement([record("a", one, one, one), record("b", two, two, none), record("c", one, "Yes.", one)])
    assert len(rows) == 1
    row = rows[0]
    assert (row["slot"], row["windows"]) == ("pedestrian count", 3)
    assert row["agree"] == pytest.approx(2 / 3)
    assert (row["drafter_true"], row["target_true"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert row["both_true"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="samples of the free path"):
        slot_agreement([{"scene": "a", "question": QUESTIONS[6], "target_text": one}])


@pytest.mark.parametrize(
    ("pieces", "kinds"),
    [
        (["A", "Ġred", "Ġcar", ".", "</s>"], ["function", "colour", "shape", "punctuation", "end"]),
        (["ĠA", "Ġtw", "o", "-", "lane", "Ġstreet"], ["function", "count", "count", "count", "count", "shape"]),
        (["▁turn", "ing", "▁left", ",", "▁nearest"], ["motion", "motion", "motion", "punctuation", "phrasing"]),
        (["Ġat", "Ġn", "ight"], ["function", "brightness", "brightness"]),
    ],
)
def test_kinds(pieces: list[str], kinds: list[str]) -> None:
    assert word_kinds(pieces) == kinds


def test_every_fact_of_streets_is_told_by_a_word_of_its_kind() -> None:
    """Whatever value a slot has, its phrase holds a word of the slot's kind and none that only a camera could tell."""
    assert set(SLOT_KINDS) == set(SLOTS)
    for slot, kind in SLOT_KINDS.items():
        for value in slot_values(slot):
            words = phrase_of(slot, value).split()
            kinds = word_kinds([f"▁{word}" for word in words])
            assert kind in kinds, (slot, value, kinds)
            assert kind in ("colour", "brightness") or not {"colour", "brightness"} & set(kinds)


def test_groups_hold_every_kind_once() -> None:
    assert sorted(kind for kinds in KIND_GROUPS.values() for kind in kinds) == sorted(KINDS)
