"""The answers of `streets` in other words tell the same slots."""

import itertools

from egptlib.scenes import QUESTIONS, read_slots
from egptlib.scenes.streets import answers, reword, slots
from egptlib.scenes.streets._answers import Facts, Vehicle
from egptlib.scenes.streets._world import COLORS, EGO_MOTIONS, KINDS, MOTIONS, SURROUNDINGS, TIMES_OF_DAY


def all_facts():
    """Every value of every slot, with zero to four vehicles and zero to two pedestrians."""
    values = [itertools.cycle(each) for each in (SURROUNDINGS, TIMES_OF_DAY, EGO_MOTIONS, KINDS, COLORS, MOTIONS)]
    for number in range(60):
        where, when, ego = (next(each) for each in values[:3])
        vehicles = tuple(Vehicle(*(next(each) for each in values[3:])) for _ in range(number % 5))
        yield Facts(where, when, ego, 2 + number % 2, vehicles, number % 3)


def test_any_wording_tells_the_same_slots_and_every_sentence_has_several():
    wordings: dict[str, set[str]] = {}
    for number, facts in enumerate(all_facts()):
        pairs = answers(facts)
        for seed in range(number, number + 5):
            told = {pair["question"]: reword(pair["answer"], 10 * seed + i) for i, pair in enumerate(pairs)}
            assert read_slots(told) == slots(facts)
            for pair in pairs:
                wordings.setdefault(pair["answer"], set()).add(told[pair["question"]])
    again = [reword(pair["answer"], 7) for pair in answers(facts)]
    assert again == [reword(pair["answer"], 7) for pair in answers(facts)]
    by_question: dict[str, set[str]] = {question: set() for question in QUESTIONS}
    for facts in all_facts():
        for pair in answers(facts):
            by_question[pair["question"]] |= wordings[pair["answer"]] - {pair["answer"]}
    assert all(others for others in by_question.values())
