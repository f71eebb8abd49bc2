"""The ten answers in other words: what a model that has language of its own is taught with."""

import random
import re
from functools import partial

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
