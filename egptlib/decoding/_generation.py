"""What a run leaves behind: its tokens, what was accepted in each round, and events stamped by one clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from egptlib._clock import Event as Event
from egptlib._clock import Recorder as Recorder
from egptlib._clock import stage_seconds


class Round(NamedTuple):
    """One target pass: draft tokens offered, draft tokens kept, and tokens gained (the kept ones and the bonus)."""

    drafted: int
    accepted: int
    gained: int


@dataclass(frozen=True)
class Generation:
    """An answer and how it came about.

    Attributes:
        token_ids: int64 [n] on the CPU, the end token included where it was reached.
        text: the same as words.
        rounds: one entry per target pass after the prefill.
        events: stamped stages of both models; see `Event`.
        lossless: whether the acceptance rule keeps the target's own output (distribution).
    """

    token_ids: Tensor
    text: str
    rounds: list[Round]
    events: list[Event]
    lossless: bool = True

    @property
    def histogram(self) -> dict[int, int]:
        """Number of verifications by accepted count, lowest first."""
        return dict(sorted(Counter(r.accepted for r in self.rounds).items()))

    @property
    def num_drafted_tokens(self) -> float:
        """Draft tokens per verification, on average."""
        return _mean([r.drafted for r in self.rounds])

    @property
    def num_accepted_tokens(self) -> float:
        """Draft tokens accepted per verification, on average, without the bonus token."""
        return _mean([r.accepted for r in self.rounds])

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens per target pass, bonus included; 1.0 for plain decoding. The prefill is no such pass."""
        return _mean([r.gained for r in self.rounds])

    @property
    def alpha(self) -> float:
        """Share of draft tokens accepted among those that were reached (all before them accepted), of chains."""
        accepted = sum(r.accepted for r in self.rounds)
        reached = accepted + sum(r.accepted < r.drafted for r in self.rounds)
        return accepted / reached if reached else 0.0

    @property
    def times(self) -> dict[str, float]:
        """Seconds per stage, named "lane.stage" ("target.verify"), in order of first occurrence."""
        return {f"{lane}.{stage}": seconds for (lane, stage), seconds in stage_seconds(self.events).items()}

    @property
    def wall_seconds(self) -> float:
        """From the first event's start to the last one's end."""
        if not self.events:
            return 0.0
        return max(e.end for e in self.events) - min(e.start for e in self.events)


class RoundTokens(NamedTuple):
    """Token ids of one target pass: kept, refused, and the target's own after them (none where the answer ended).

    Of a tree all nodes are refused that lie beside the kept path.
    """

    accepted: list[int]
    rejected: list[int]
    own: list[int]


def round_tokens(generation: Generation) -> list[RoundTokens]:
    """What became of each draft token of an answer, round by round.

    What the rounds gained, joined, is the answer after the token that the prefill gave.

    Raises:
        ValueError: a draft is not among the events, as where the first was made while the target read its prompt.
    """
    events = [e for e in generation.events if e.stage == "draft" and e.info.get("tokens")]
    drafts = [(e.info["tokens"], e.info.get("parents")) for e in events]
    drafting = [r for r in generation.rounds if r.drafted]
    if [len(tokens) for tokens, _ in drafts] != [r.drafted for r in drafting]:
        raise ValueError(f"round_tokens: expected the events of {len(drafting)} drafts, found {len(drafts)}")
    ids, waiting, rounds = generation.token_ids.tolist(), iter(drafts), list[RoundTokens]()
    at = len(ids) - sum(r.gained for r in generation.rounds)
    for r in generation.rounds:
        draft, parents = next(waiting) if r.drafted else ([], None)
        accepted = ids[at : at + r.accepted]
        refused = draft[r.accepted :] if parents is None else _beside(draft, parents, accepted)
        rounds.append(RoundTokens(accepted, refused, ids[at + r.accepted : at + r.gained]))
        at += r.gained
    return rounds


def _beside(tokens: list[int], parents: list[int], kept: list[int]) -> list[int]:
    """The tokens of a tree that are not on the path that spells `kept`."""
    at, path = -1, set[int]()
    for token in kept:
        at = next(node for node, parent in enumerate(parents) if parent == at and tokens[node] == token)
        path.add(at)
    return [token for node, token in enumerate(tokens) if node not in path]


def acceptance_by_position(rounds: list[Round]) -> list[float]:
    """Share of verifications that kept draft position 0, 1, ...; of those that drafted that far. Of chains."""
    longest = max((r.drafted for r in rounds), default=0)
    shares = []
    for position in range(longest):
        reached = [r.accepted > position for r in rounds if r.drafted > position]
        shares.append(sum(reached) / len(reached))
    return shares


def acceptance_by_rank(generations: Sequence[Generation], depth: int, width: int) -> np.ndarray:
    """Share [depth, rank] of drafts whose kept path went on, behind so many kept tokens, with a child of that rank.

    Of rounds whose drafts were trees with all children that a level had: `TreeShape` with more room than they need.
    Only nodes that have children count; siblings stand in the order of the drafter's probability.

    Raises:
        ValueError: as `round_tokens`.
    """
    reached, went = np.zeros((depth, 1)), np.zeros((depth, width))
    for generation in generations:
        drafts = [e.info for e in generation.events if e.stage == "draft" and e.info.get("tokens")]
        rounds = [tokens for tokens, r in zip(round_tokens(generation), generation.rounds, strict=True) if r.drafted]
        for info, kept in zip(drafts, rounds, strict=True):
            children: dict[int, list[int]] = {}
            for node, parent in enumerate(info.get("parents") or range(-1, len(info["tokens"]) - 1)):
                children.setdefault(parent, []).append(node)
            at = -1
            for level in range(min(depth, len(kept.accepted) + 1)):
                if at not in children or (level == len(kept.accepted) and not kept.own):
                    break
                reached[level] += 1
                if level < len(kept.accepted):
                    siblings = [info["tokens"][node] for node in children[at]]
                    rank = siblings.index(kept.accepted[level])
                    went[level, rank : rank + 1] += 1
                    at = children[at][rank]
    return went / np.maximum(reached, 1)


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 0.0
