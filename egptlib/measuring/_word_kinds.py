"""What a word is about: what events can carry, what they cannot, and what no camera decides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_WORDS = {
    "motion": "moving driving parked standing still slowly fast turning crossing coming towards ahead left right",
    "shape": "car truck bus van cyclist bicycle motorcycle vehicle vehicles pedestrian pedestrians building buildings "
    "houses trees roofs windows street road lane sidewalk sidewalks city suburb country residential rural urban "
    "tall low straight",
    "count": "yes no one two three four two-lane three-lane any several many both nothing",
    "colour": "red blue green white black yellow grey gray silver orange brown",
    "brightness": "daytime day dusk night dark bright",
    "function": "a an the is are of in on at to with from this that there and it its for by as or",
}
_KIND = {word: kind for kind, words in _WORDS.items() for word in words.split()}
KINDS = (*_WORDS, "punctuation", "end", "phrasing")
KIND_GROUPS = {
    "events carry it": ("motion", "shape", "count"),
    "events do not carry it": ("colour", "brightness"),
    "language": ("function", "punctuation", "end", "phrasing"),
}
"""Events carry what moves, its outline and how many there are; colour and brightness are lost (and text, of which the
answers about `streets` hold none). The rest is language. "Yes" and "no" count: they answer "are there any"."""


def spell(piece: str) -> str:
    """A token's text, from how byte-level BPE ("Ġred") or SentencePiece ("▁red") spells it."""
    return piece.replace("Ġ", " ").replace("▁", " ")


def word_kinds(pieces: Sequence[str], end: Iterable[str] = ("</s>",)) -> list[str]:
    """The kind of word each token belongs to.

    Args:
        pieces: tokens of an answer as the tokenizer spells them (`convert_ids_to_tokens`).
        end: how end tokens are spelt.

    Returns:
        One of `KINDS` for each piece; a word in several pieces gives all of them its kind.
    """
    ends = frozenset(end)
    words: list[list[int]] = []
    for i, piece in enumerate(pieces):
        text = spell(piece).lstrip()
        alone = piece in ends or not re.search(r"\w", text)
        before = pieces[i - 1] if i else ""
        broken = not words or spell(piece)[:1] == " " or (text[:1] != "-" and not re.search(r"[\w-]$", before))
        if (alone and text != "-") or broken:
            words.append([i])
        else:
            words[-1].append(i)
    kinds = [""] * len(pieces)
    for places in words:
        text = "".join(spell(pieces[i]).lstrip() for i in places).lower()
        if pieces[places[0]] in ends:
            kind = "end"
        elif not re.search(r"\w", text):
            kind = "punctuation"
        else:
            kind = _KIND.get(text, "phrasing")
        for i in places:
            kinds[i] = kind
    return kinds
