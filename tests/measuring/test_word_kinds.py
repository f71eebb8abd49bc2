"""Words are put together from pieces and told apart by what carries them."""

import pytest

from egptlib.measuring import KIND_GROUPS, KINDS, word_kinds
from egptlib.measuring._slots import SLOT_KINDS
from egptlib.scenes.streets._answers import SLOTS, phrase_of, slot_values


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
