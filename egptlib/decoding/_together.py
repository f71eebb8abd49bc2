"""The speculative loop over many questions at once: every row with its own draft, judged in one target pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from egptlib.decoding._adapted import HeadDrafter
from egptlib.decoding._drafters import (
    Draft,
    Drafter,
    SequenceDrafter,
    WatchingDrafter,
    reads_prompt,
    source_layers,
)
from egptlib.decoding._generation import Generation, Recorder, Round
from egptlib.decoding._lengths import FixedLength
from egptlib.decoding._model_drafter import ModelDrafter
from egptlib.decoding._ngrams import NgramDrafter
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._round import Settings, keep
from egptlib.decoding._sampling import Sampler, pick
from egptlib.models import Model, RowDrafter, Tracks, check_rows


@dataclass
class Asked:
    """Some questions about one scene, who reads it, and the numbers of their rows."""

    reader: PromptReader
    drafter: Drafter
    questions: Sequence[str]
    rows: range


@dataclass
class _Row:
    """One answer on its way."""

    sampler: Sampler
    tokens: list[int] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)


class _Drafters(Protocol):
    """What drafts for all rows."""

    def propose(
        self, rows: Mapping[int, _Row], counts: Mapping[int, int], stop: Callable[[float], bool]
    ) -> Mapping[int, Draft]: ...

    def watch(self, row: int, hidden: Tensor, layers: Tensor) -> None: ...

    def drop(self, row: int) -> None: ...


def same_drafter(a: Drafter, b: Drafter) -> bool:
    """Whether two are one, or draft with one model."""
    return a is b or (type(a) is type(b) is ModelDrafter and a.model is b.model)


def drafts_together(drafter: Drafter, target: Model) -> bool:
    """Whether rows of a drafter can be verified together: otherwise questions are answered one after the other."""
    if target.rule_settings:  # they look at each row's own tokens
        return False
    try:
        check_rows(target)
        if type(drafter) is ModelDrafter:
            check_rows(drafter.model)
            return True
    except ValueError:
        return False
    return type(drafter) in (SequenceDrafter, NgramDrafter, HeadDrafter) and not reads_prompt(drafter)


@torch.no_grad()
def answer_together(
    target: Model,
    drafter: Drafter,
    asked: Sequence[Asked],
    settings: Settings,
) -> list[Generation]:
    """Answer all questions, by row; chance as in `SceneSession.ask_all`."""
    length, rule, max_new_tokens, given = settings.length, settings.rule, settings.max_new_tokens, settings.sampler
    recorder, num_rows = Recorder(), asked[-1].rows.stop
    if not length.pays(max_new_tokens):
        drafter, length = SequenceDrafter(), FixedLength(0)
    length.start()
    tracks = Tracks(target, source_layers(drafter))
    scenes = [each.reader.read_together(each.questions, recorder) for each in asked]
    with recorder("target", "prefill", target.device):
        rests = [dict(zip(each.rows, rest, strict=True)) for each, (_, rest) in zip(asked, scenes, strict=True)]
        tracks.begin([(state, rest) for (state, _), rest in zip(scenes, rests, strict=True)])
    if type(drafter) is ModelDrafter:
        drafters: _Drafters = _ModelRows(drafter, asked, recorder)
    else:
        drafters = _Copies(drafter, asked, recorder)
    seeds = [0] * num_rows if given.greedy else torch.randint(2**62, (num_rows,), generator=given.generator).tolist()
    going = {row: _Row(Sampler(given.sampling, torch.Generator().manual_seed(seed))) for row, seed in enumerate(seeds)}
    done = dict(going)
    firsts = torch.stack([tracks.states[row][0] for row in going])  # [row, 1 + layers, H]
    for row, logits, states in zip(list(going), target.lm_head(firsts[:, 0]), firsts, strict=True):
        going[row].tokens.append(going[row].sampler.choose(logits))
        drafters.watch(row, states[None, 0], states[None, 1:])
    while True:
        for row, each in list(going.items()):
            if len(each.tokens) == max_new_tokens or each.tokens[-1] in target.eos_token_ids:
                del going[row]
                tracks.drop(row)
                drafters.drop(row)
        if not going:
            break
        # The bonus token needs a place too.
        counts = {row: min(length.count(), max_new_tokens - len(r.tokens) - 1) for row, r in going.items()}
        counts = {row: count for row, count in counts.items() if count > 0}
        drafts: Mapping[int, Draft] = {}
        if counts:
            with recorder("drafter", "draft", drafter.device) as info:
                drafts = drafters.propose({row: going[row] for row in counts}, counts, length.stop)
                info.update(drafted=sum(len(draft.tokens) for draft in drafts.values()), rows=len(drafts))
        with recorder("target", "verify" if drafts else "step", target.device) as info:
            offered = {row: drafts.get(row) or Draft() for row in going}
            read, sizes = tracks.catch_up({row: going[row].tokens + draft.tokens for row, draft in offered.items()})
            accepted_of = {}
            by_row = (each.split(list(sizes.values())) for each in (target.lm_head(read[:, 0]), read))
            for row, logits, states in zip(sizes, *by_row, strict=True):
                each, draft = going[row], offered[row]
                gained, accepted = keep(rule(draft, logits, states[:, 0], each.sampler), draft, target.eos_token_ids)
                each.tokens += gained
                tracks.cut(row, len(each.tokens) - 1)  # a lossy rule may draw the token that it has refused
                each.rounds.append(Round(len(draft.tokens), accepted, len(gained)))
                drafters.watch(row, states[: len(gained), 0], states[: len(gained), 1:])
                accepted_of[row] = accepted
            info.update(drafted=sum(len(d.tokens) for d in offered.values()), rows=len(going))
            info["accepted"] = sum(accepted_of.values())
        for row, accepted in accepted_of.items():
            length.observe(len(offered[row].tokens), accepted)
    return [
        Generation(torch.tensor(r.tokens), target.decode_text(r.tokens), r.rounds, recorder.events, rule.lossless)
        for r in done.values()
    ]


class _ModelRows:
    """A model that drafts for all rows in one pass a token."""

    def __init__(self, drafter: ModelDrafter, asked: Sequence[Asked], recorder: Recorder):
        words = drafter.vocabulary
        self._rows = RowDrafter(drafter.model, words.to_drafter, words.to_target, words.end_token_ids)
        scenes = []
        for each in asked:
            assert isinstance(each.drafter, ModelDrafter)
            each.drafter.keep(each.reader.scene)
            state, rest = each.drafter.reader(each.reader.scene).read_together(each.questions, recorder)
            scenes.append((state, dict(zip(each.rows, rest, strict=True))))
        with recorder("drafter", "prefill", drafter.device):
            self._rows.begin(scenes)

    def propose(
        self, rows: Mapping[int, _Row], counts: Mapping[int, int], stop: Callable[[float], bool]
    ) -> Mapping[int, Draft]:
        drawn_from: dict[int, list[Tensor]] = {row: [] for row in rows}

        def choose(numbers: Sequence[int], logits: Tensor) -> Tensor:
            for row, own in zip(numbers, logits, strict=True):
                drawn_from[row].append(rows[row].sampler.probabilities(own))
            return torch.cat([pick(drawn_from[row][-1], rows[row].sampler.uniform(1)[0]) for row in numbers])

        greedy = all(row.sampler.greedy for row in rows.values())
        answers = {row: each.tokens for row, each in rows.items()}
        found = self._rows.propose(answers, counts, stop, None if greedy else choose)
        return {
            row: Draft(
                draft.tokens,
                draft.confidence,
                torch.stack(drawn_from[row]) if drawn_from[row] else None,
                torch.stack(draft.logits),
            )
            for row, draft in found.items()
        }

    def watch(self, row: int, hidden: Tensor, layers: Tensor) -> None:
        """Nothing to see."""

    def drop(self, row: int) -> None:
        self._rows.drop(row)


class _Copies:
    """A drafter for each row, over the same weights."""

    def __init__(self, drafter: Drafter, asked: Sequence[Asked], recorder: Recorder):
        self._copies: dict[int, Any] = {}
        for each in asked:
            for row, question in zip(each.rows, each.questions, strict=True):
                own = self._copies[row] = copy.copy(drafter)
                if isinstance(own, ModelDrafter):
                    own.keep(None)  # a cache that is rolled back serves one row only
                own.start(each.reader.scene, question, recorder)

    def propose(
        self, rows: Mapping[int, _Row], counts: Mapping[int, int], stop: Callable[[float], bool]
    ) -> Mapping[int, Draft]:
        return {
            row: self._copies[row].propose(each.tokens, counts[row], each.sampler, stop).first(counts[row])
            for row, each in rows.items()
        }

    def watch(self, row: int, hidden: Tensor, layers: Tensor) -> None:
        if isinstance(own := self._copies[row], WatchingDrafter):
            own.watch(hidden, layers)

    def drop(self, row: int) -> None:
        del self._copies[row]
