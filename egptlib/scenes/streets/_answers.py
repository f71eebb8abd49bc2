"""What can be seen in a window of a street, told in ten answers, read back, and in other words."""

import random
import re
from dataclasses import dataclass
from functools import partial

from egptlib.scenes._questions import QUESTIONS
from egptlib.scenes.streets._world import COLORS, EGO_MOTIONS, KINDS, MOTIONS, SURROUNDINGS, TIMES_OF_DAY

_NUMBERS = ("no", "one", "two", "three", "four")
_MOTION_PHRASES = dict(
    zip(
        MOTIONS,
        (
            "driving ahead in the same lane",
            "coming towards the camera",
            "parked on the left side",
            "parked on the right side",
            "crossing from right to left",
            "crossing from left to right",
        ),
        strict=True,
    )
)
_EGO_PHRASES = dict(
    zip(
        EGO_MOTIONS,
        ("standing still", "driving slowly", "driving fast", "turning left", "turning right"),
        strict=True,
    )
)
_TIME_PHRASES = dict(zip(TIMES_OF_DAY, ("daytime", "dusk", "night"), strict=True))
_STRUCTURES = dict(
    zip(
        SURROUNDINGS,
        (
            "Tall buildings with many windows line both sides of the street.",
            "Low houses with red roofs stand on both sides of the street.",
            "Trees stand along both sides of the road.",
        ),
        strict=True,
    )
)


@dataclass(frozen=True)
class Vehicle:
    kind: str
    color: str
    motion: str


@dataclass(frozen=True)
class Facts:
    """The ground truth of one window. `vehicles` are the visible ones, nearest first."""

    surroundings: str
    time_of_day: str
    ego_motion: str
    lanes: int
    vehicles: tuple[Vehicle, ...]
    pedestrians: int


# slot -> (question that asks for it, value -> the phrase that tells it)
_SLOTS: dict[str, tuple[int, dict[str, str]]] = {
    "surroundings": (2, {value: value for value in SURROUNDINGS}),
    "time of day": (2, _TIME_PHRASES),
    "ego motion": (2, _EGO_PHRASES),
    "lanes": (3, {"2": "two-lane", "3": "three-lane"}),
    "vehicle count": (7, {str(n): f"{word} vehicle" for n, word in enumerate(_NUMBERS)}),
    "kind": (4, {value: f" {value} " for value in KINDS}),
    "colour": (4, {value: f" {value} " for value in COLORS}),
    "direction": (4, _MOTION_PHRASES),
    "pedestrian count": (6, {str(n): f"{word} pedestrian" for n, word in enumerate(_NUMBERS[:3])}),
}
SLOTS = tuple(_SLOTS)
"""Names of the facts that answers are judged by. Kind, colour and direction are those of the nearest vehicle."""
SLOT_QUESTIONS = tuple(sorted({question for question, _ in _SLOTS.values()}))
"""Numbers of the questions whose answers tell all slots."""
TOLD_TOGETHER = frozenset(
    slot for slot, (question, _) in _SLOTS.items() if sum(other == question for other, _ in _SLOTS.values()) > 1
)
"""Slots whose answer tells other slots too. The answers to the other questions hang on one slot from the start."""
MOVING_SLOTS = ("ego motion", "direction")
"""The slots about what moves: what an event camera is made for."""


def slots(facts: Facts) -> dict[str, str]:
    """The true value of every slot; slots of the nearest vehicle are missing where there is none."""
    true = {
        "surroundings": facts.surroundings,
        "time of day": facts.time_of_day,
        "ego motion": facts.ego_motion,
        "lanes": str(facts.lanes),
        "vehicle count": str(len(facts.vehicles)),
        "pedestrian count": str(facts.pedestrians),
    }
    if facts.vehicles:
        nearest = facts.vehicles[0]
        true |= {"kind": nearest.kind, "colour": nearest.color, "direction": nearest.motion}
    return true


def read_slots(answers: dict[str, str]) -> dict[str, str]:
    """Read slot values from answers.

    Args:
        answers: question -> answer; questions that tell no slot are ignored.

    Returns:
        slot -> the value whose phrase comes first in the answer to the slot's question; a slot is missing where
        the answer names none of its values.
    """
    found = {}
    for slot, (number, _) in _SLOTS.items():
        question = QUESTIONS[number]
        if place := find_slot(slot, question, f" {answers.get(question, '')} "):
            found[slot] = place[0]
    return found


def find_slot(slot: str, question: str, text: str) -> tuple[str, int, int] | None:
    """Where an answer tells a slot: value, and first and behind-last character of its phrase; None where it does not.

    The value whose phrase comes first counts; answers to other questions tell nothing.
    """
    number, phrases = _SLOTS[slot]
    if question != QUESTIONS[number]:
        return None
    places = [(text.find(phrase), value) for value, phrase in phrases.items() if phrase in text]
    if not places:
        return None
    found, value = min(places, key=lambda place: place[0])
    start = found + len(phrases[value]) - len(phrases[value].lstrip())
    return value, start, start + len(phrases[value].strip())


def phrase_of(slot: str, value: str) -> str:
    """How an answer tells a value of a slot."""
    return _SLOTS[slot][1][value].strip()


def slot_values(slot: str) -> tuple[str, ...]:
    """All values a slot can take."""
    return tuple(_SLOTS[slot][1])


def answers(facts: Facts) -> list[dict[str, str]]:
    """The ten questions with their answers, in the order of `QUESTIONS`."""
    number = len(facts.vehicles)
    structures = _STRUCTURES[facts.surroundings]
    time, place = _TIME_PHRASES[facts.time_of_day], facts.surroundings
    ego = f"The camera vehicle is {_EGO_PHRASES[facts.ego_motion]}."
    lanes = _NUMBERS[facts.lanes]
    told = [f"a {v.color} {v.kind} {_MOTION_PHRASES[v.motion]}" for v in facts.vehicles]
    if number == 0:
        vehicles = "There are no vehicles."
        types, activity = "There are no vehicles in the scene.", "Nothing else is on the road."
        positions = "There are no vehicles visible."
    else:
        vehicles = f"There is one vehicle, {told[0]}."
        if number > 1:
            vehicles = f"There are {_NUMBERS[number]} vehicles; the nearest is {told[0]}."
        types = f"The nearest is {told[0]}." + "".join(f" Farther away is {other}." for other in told[1:])
        nearest = facts.vehicles[0]
        activity = f"A {nearest.kind} is {_MOTION_PHRASES[nearest.motion]}."
        each = [f"one {_MOTION_PHRASES[v.motion]}" for v in facts.vehicles]
        positions = f"{_count(number, 'vehicle').capitalize()} visible: {_list(each)}."
    some_pedestrians = f"{_count(facts.pedestrians, 'pedestrian')} on the sidewalk"
    pedestrians = f"{some_pedestrians[0].upper()}{some_pedestrians[1:]}."
    return [
        {"question": question, "answer": answer}
        for question, answer in zip(
            QUESTIONS,
            (
                f"A {lanes}-lane {place} at {time}. {vehicles} {pedestrians}",
                f"This is a {place} at {time}. {structures} {vehicles} {pedestrians} {ego}",
                f"This is a driving scene on a {place} at {time}. {ego}",
                f"The road is a straight {lanes}-lane road with dashed lane markings and sidewalks on both sides.",
                types,
                f"{ego} {activity}",
                f"Yes, {some_pedestrians}." if facts.pedestrians else "No, there are no pedestrians visible.",
                f"Yes, there {_count(number, 'vehicle', verb_first=True)}."
                if number
                else "No, there are no vehicles visible.",
                positions,
                structures,
            ),
            strict=True,
        )
    ]


def _count(number: int, noun: str, verb_first: bool = False) -> str:
    verb, ending = ("is", "") if number == 1 else ("are", "s")
    told = f"{_NUMBERS[number]} {noun}{ending}"
    return f"{verb} {told}" if verb_first else f"{told} {verb}"


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


# A sentence as `answers` words it -> the same in other words. The phrases that tell slots stay as they are, so that
# `read_slots` reads any wording.
_WORDINGS = {
    r"^A (\S+-lane) (.+?) at (\w+)\.": (
        r"The scene shows a \1 \2 at \3.",
        r"We see a \1 \2 at \3.",
        r"It is \3 on a \1 \2.",
    ),
    r"^This is a driving scene on a (.+?) at (\w+)\.": (
        r"The scene is about driving on a \1 at \2.",
        r"It shows a drive along a \1 at \2.",
        r"Somebody drives on a \1 at \2.",
    ),
    r"^This is a (?!driving)(.+?) at (\w+)\.": (
        r"The scene shows a \1 at \2.",
        r"We are looking at a \1 at \2.",
        r"What we see is a \1 at \2.",
    ),
    r"The camera vehicle is (\w+ \w+)\.": (
        r"The car with the camera is \1.",
        r"Our own vehicle is \1.",
        r"We are \1.",
    ),
    r"^The road is a straight (\S+-lane) road with (.+?) and (.+?)\.": (
        r"It is a straight \1 road; it has \2 and \3.",
        r"We see a \1 road that runs straight ahead, with \2 and \3.",
        r"There are \2 on a straight \1 road, and \3.",
    ),
    r"There is one vehicle, (.+?)\.": (
        r"Only one vehicle can be seen, \1.",
        r"I can see one vehicle: \1.",
    ),
    r"There are (\w+) vehicles; the nearest is (.+?)\.": (
        r"I can see \1 vehicles, and the nearest is \2.",
        r"Of the \1 vehicles, the nearest is \2.",
    ),
    r"^The nearest is (.+?)\.": (
        r"Nearest to us is \1.",
        r"The closest vehicle is \1.",
    ),
    r"Farther away is (.+?)\.": (
        r"Behind it is \1.",
        r"There is also \1.",
    ),
    r"There are no vehicles( in the scene| visible|)\.": (
        r"I can see no vehicles\1.",
        r"The road is empty, with no vehicles\1.",
    ),
    r"^Yes, there (?:is|are) (\w+ vehicles?)\.": (
        r"Yes, I can see \1.",
        r"Yes, \1 can be seen.",
    ),
    r"^No, there are no (\w+) visible\.": (
        r"No, I can see no \1.",
        r"No, there are no \1 in the scene.",
    ),
    r"^Yes, (\w+ pedestrians?) (?:is|are) on the sidewalk\.": (
        r"Yes, I can see \1 on the sidewalk.",
        r"Yes, on the sidewalk there can be seen \1.",
    ),
    r"^(\w+) (vehicles?) (?:is|are) visible: (.+?)\.": (
        r"\1 \2 can be seen: \3.",
        r"\1 \2 in all: \3.",
    ),
    r"Nothing else is on the road\.": (
        r"There is no other traffic.",
        r"The road is empty otherwise.",
    ),
    r"Tall buildings with many windows line both sides of the street\.": (
        r"Both sides of the street are lined by tall buildings with many windows.",
        r"Left and right there are tall buildings with many windows.",
    ),
    r"Low houses with red roofs stand on both sides of the street\.": (
        r"On both sides of the street stand low houses with red roofs.",
        r"Left and right there are low houses with red roofs.",
    ),
    r"Trees stand along both sides of the road\.": (
        r"The road is lined by trees on both sides.",
        r"Left and right of the road there are trees.",
    ),
}


def reword(answer: str, seed: int) -> str:
    """One of the answers of `streets`, each sentence in one of a few wordings, drawn by `seed`."""
    draw = random.Random(seed)

    def told(found: re.Match[str], others: tuple[str, ...]) -> str:
        return draw.choice([found[0], *(found.expand(other) for other in others)])

    for sentence, others in _WORDINGS.items():
        answer = re.sub(sentence, partial(told, others=others), answer)
    return answer
