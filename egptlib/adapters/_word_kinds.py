"""Which words are rejected: what events can carry, what they cannot, and what no camera decides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_WORDS = {
    "motion": "moving driving parked standing still slowly fast turning crossing coming towards ahead left right",
    "shape": "car truck bus van cyclist bicycle motorcycle vehicle vehicles pedestrian pedestrians building buildings "
    "houses trees roofs windows street road lane sidewalk sidewalks city suburb country residential rural urban",
    "count": "no one two three four two-lane three-lane any several both nothing",
    "colour": "red blue green white black yellow grey gray silver orange brown",
    "brightness": "daytime day dusk night dark bright",
    "function": "a an the is are of in on at to with from this that there and it its with for by as or yes",
}
_KIND = {word: kind for kind, words in _WORDS.items() for word in words.split()}
KINDS = (*_WORDS, "punctuation", "end", "phrasing")
"""Motion, shape and count can be seen in events; colour, brightness cannot; the rest is language."""


def word_kinds(pieces: Sequence[str], end: Iterable[str] = ("</s>",)) -> list[str]:
    """The kind of word each token belongs to.

    Args:
        pieces: tokens of an answer as the tokenizer spells them (`convert_ids_to_tokens`): a word starts with "Ġ"
            (byte-level BPE) or "▁" (SentencePiece).
        end: how end tokens are spelt.

    Returns:
        One of `KINDS` for each piece; a word in several pieces gives all of them its kind.
    """
    ends = frozenset(end)
    words: list[list[int]] = []
    for i, piece in enumerate(pieces):
        text = piece.lstrip("Ġ▁")
        alone = piece in ends or not re.search(r"\w", text)
        before = pieces[i - 1] if i else ""
        broken = not words or piece[:1] in "Ġ▁" or (text[:1] != "-" and not re.search(r"[\w-]$", before))
        if (alone and text != "-") or broken:
            words.append([i])
        else:
            words[-1].append(i)
    kinds = [""] * len(pieces)
    for places in words:
        text = "".join(pieces[i].lstrip("Ġ▁") for i in places).lower()
        if pieces[places[0]] in ends:
            kind = "end"
        elif not re.search(r"\w", text):
            kind = "punctuation"
        else:
            kind = _KIND.get(text, "phrasing")
        for i in places:
            kinds[i] = kind
    return kinds


def rejections_by_kind(kinds: Sequence[Sequence[str]], matches: Sequence[Tensor]) -> list[dict[str, Any]]:
    """One row per kind that occurs, in the order of `KINDS`: kind, tokens, rejected, rate, share of all rejections.

    Args:
        kinds: per sample the kind of each token of the target's.
        matches: per sample bool [n], whether the drafter's token there is the target's.
    """
    flat = [kind for row in kinds for kind in row]
    wrong = ~torch.cat(list(matches))
    if len(flat) != len(wrong):
        raise ValueError(f"{len(flat)} kinds and {len(wrong)} matches: expected one of each per token")
    total = max(1, int(wrong.sum()))
    rows = []
    for kind in KINDS:
        here = torch.tensor([k == kind for k in flat])
        if here.any():
            rejected = int((wrong & here).sum())
            rate = rejected / int(here.sum())
            row = {"kind": kind, "tokens": int(here.sum()), "rejected": rejected, "rate": rate}
            rows.append(row | {"share": rejected / total})
    return rows
