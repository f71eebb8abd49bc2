"""What rejected words are about, and rejections against the ground truth of `streets`: who tells which fact right."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from egptlib.hidden_states import HiddenSample
from egptlib.metrics import Rejections
from egptlib.scenes import SLOTS, TOLD_TOGETHER, find_slot, phrase_of, read_slots

SLOT_KINDS = {
    "surroundings": "shape",
    "time of day": "brightness",
    "ego motion": "motion",
    "lanes": "count",
    "vehicle count": "count",
    "kind": "shape",
    "colour": "colour",
    "direction": "motion",
    "pedestrian count": "count",
}
"""What has to be seen to tell a slot; one of `KINDS`."""


def slot_agreement(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How often two free answers tell the same value of a slot, and which of them is true.

    Args:
        records: metadata of samples extracted along the `free` path (`scene`, `sequence`, `question`, `drafter_text`,
            `target_text`, `reference`); all questions of a scene that tell slots.

    Returns:
        Rows of `slot, kind, windows, agree, low, high` (95 %, over sequences), `drafter_true, target_true, both_true`:
        shares of the windows that have the slot. A slot that an answer does not tell is not true, and agrees with none.

    Raises:
        ValueError: no record has a true answer and both models' own.
    """
    told: defaultdict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    sequences = {}
    for record in records:
        if record.get("reference") and "drafter_text" in record:
            sequences[record["scene"]] = record["sequence"]
            for name in ("reference", "drafter_text", "target_text"):
                told[record["scene"]][name][record["question"]] = record[name]
    if not told:
        raise ValueError("records: none has a reference and a drafter_text; expected samples of the free path")
    counts: Counter[tuple[str, str]] = Counter()
    labels, agreements, clusters = [], [], []
    for scene, texts in told.items():
        true, drafter, target = (read_slots(texts[name]) for name in ("reference", "drafter_text", "target_text"))
        equal = {slot: slot in drafter and drafter[slot] == target.get(slot) for slot in true}
        labels.append(list(equal))
        agreements.append(torch.tensor(list(equal.values())))
        clusters.append(sequences[scene])
        for slot, value in true.items():
            right = [slots.get(slot) == value for slots in (drafter, target)]
            counts[slot, "windows"] += 1
            for name, holds in zip(("drafter_true", "target_true", "both_true"), (*right, all(right))):
                counts[slot, name] += holds
    rows = []
    for row in Rejections.count(labels, agreements, clusters, SLOTS).rows():
        slot = row["label"]
        agree = {"agree": 1 - row["rate"], "low": 1 - row["high"], "high": 1 - row["low"]}
        shares = {n: counts[slot, n] / counts[slot, "windows"] for n in ("drafter_true", "target_true", "both_true")}
        rows.append({"slot": slot, "kind": SLOT_KINDS[slot], "windows": row["tokens"], **agree, **shares})
    return rows


def slot_rejections(
    samples: Iterable[HiddenSample], spelt: Callable[[list[int]], Sequence[str]]
) -> list[dict[str, Any]]:
    """How often the drafter is rejected where the target tells a fact, and who is right there.

    A fact is told from the first token that depends on it: from the beginning of an answer that tells one slot alone
    ("Yes" against "No"), else from its phrase on. It is rejected when any of these tokens is.

    Args:
        samples: along the target's path, with a reference.
        spelt: token ids -> how the tokenizer spells them (`convert_ids_to_tokens`).

    Returns:
        Rows of `slot, kind, facts, target_true` (share of facts the target tells truly), `rate, low, high` (rejected,
        95 % over sequences), `rate_true, rate_false` (rejected where the target is right, or wrong), `drafter_true`
        (of the rejected: the drafter was on its way to the truth). None where there is nothing to divide by. No row
        where no sample tells a slot that its reference has too.
    """
    labels, matches, clusters = [], [], []
    seen: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        if sample.token_ids is None or sample.drafter_top1 is None or not sample.metadata.get("reference"):
            continue
        question = sample.metadata["question"]
        true = read_slots({question: sample.metadata["reference"]})
        pieces = [spell(piece) for piece in spelt(sample.token_ids.tolist())]
        drafted = [spell(piece) for piece in spelt(sample.drafter_top1.tolist())]
        match = sample.token_ids == sample.drafter_top1
        told = []
        for slot in true:
            found = find_slot(slot, question, "".join(pieces))
            if found is None:
                continue
            value, start, stop = found
            first_wrong = _first_wrong(pieces, match, start if slot in TOLD_TOGETHER else 0, stop)
            holds = value == true[slot]
            told.append((slot, first_wrong is None))
            seen[slot, "true"] += holds
            if first_wrong is None:
                continue
            seen[slot, "rejected true"] += holds
            begun = "".join(pieces[:first_wrong]) + drafted[first_wrong]
            truth = "".join(pieces)[:start] + phrase_of(slot, true[slot])
            if slot not in TOLD_TOGETHER:
                truth = sample.metadata["reference"]
            seen[slot, "drafter true"] += truth.strip().startswith(begun.strip())
        labels.append([slot for slot, _ in told])
        matches.append(torch.tensor([accepted for _, accepted in told], dtype=torch.bool))
        clusters.append(sample.metadata.get("sequence"))
    if not any(labels):
        return []
    rows = []
    for row in Rejections.count(labels, matches, clusters, SLOTS).rows():
        slot, facts, rejected = row["label"], row["tokens"], row["rejected"]
        num_true, rejected_true = seen[slot, "true"], seen[slot, "rejected true"]
        rows.append(
            {
                "slot": slot,
                "kind": SLOT_KINDS[slot],
                "facts": facts,
                "target_true": num_true / facts,
                **{name: row[name] for name in ("rate", "low", "high")},
                "rate_true": _share(rejected_true, num_true),
                "rate_false": _share(rejected - rejected_true, facts - num_true),
                "drafter_true": _share(seen[slot, "drafter true"], rejected),
            }
        )
    return rows


def _first_wrong(pieces: Sequence[str], match: Tensor, start: int, stop: int) -> int | None:
    """Number of the first rejected token that has a character in [start, stop) of the text."""
    at = 0
    for i, piece in enumerate(pieces):
        at += len(piece)
        if at > start and at - len(piece) < stop and not match[i]:
            return i
    return None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


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
