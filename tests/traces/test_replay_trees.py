"""Replay of draft trees: against the loop that drafts them, and against all paths there are."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from egptlib.adapters import create_adapter
from egptlib.decoding import (
    Drafter,
    HeadDrafter,
    SequenceDrafter,
    TreeShape,
    as_drafter,
    record_trees,
    speculative_generate,
)
from egptlib.metrics import Branches, replay_trees
from egptlib.models import Model, load_pair, shared_vocabulary
from egptlib.traces import (
    Trace,
    TraceRow,
    fit_trace,
    recorded_schedule,
    trace_from_runs,
    trace_from_trees,
    trace_totals,
)
from tests.decoding.conftest import TextModel, make_model, plain

from .test_replay_equals_loop import LIMIT, QUESTIONS, TINY, noise_scene


@pytest.fixture(scope="module")
def target() -> TextModel:
    return make_model(0, layers=3, name="target")


def drafting(kind: str, target: TextModel) -> Drafter:
    if kind == "model":
        return as_drafter(make_model(1, layers=3, like=target, noise=0.15, name="drafter"), target)
    torch.manual_seed(3)
    sizes: Any = {"hidden_size": 32, "num_heads": 4, "ffn_dim": 48, "max_positions": 24, "num_source_layers": 2}
    head: Any = create_adapter("E3", **sizes)
    return HeadDrafter(target, head, target, shared_vocabulary(target, target), (1, 2))


def rounds_of(target: Model, drafter: Drafter, prompt: Any, shape: TreeShape, limit: int) -> list[tuple[int, int, int]]:
    run = speculative_generate(target, drafter, *prompt, gamma=shape, max_new_tokens=limit)
    return [(r.drafted, r.accepted, r.gained) for r in run.rounds]


@pytest.mark.parametrize("kind", ["model", pytest.param("E3", marks=pytest.mark.slow)])
def test_the_loop_does_what_replay_says(kind: str, target: TextModel, tmp_path: Path) -> None:
    """Round by round, at every size, depth and confidence from one record, after a trip through a file; an answer cut
    to fewer tokens is replayed as a run under that limit. E3 has room for 24 positions, so its trees get less deep."""
    drafter, prompts = drafting(kind, target), TINY[:1]
    recorded = record_trees(target, drafter, prompts, 5, 3, max_new_tokens=LIMIT)
    assert recorded.token_ids == [plain(target, prompt, LIMIT) for prompt, _ in prompts]
    trace_from_trees(recorded, prompts, max_new_tokens=LIMIT).save(tmp_path / "t.parquet")
    trace, accepted, branched = Trace.load(tmp_path / "t.parquet"), 0, 0
    for size, depth, least, limit in ((6, 5, 0.0, LIMIT), (14, 3, 0.02, 11)):
        found = trace.cut(limit).replay_trees(size, depth, 3, least)
        for s, prompt in enumerate(prompts):
            live = rounds_of(target, drafter, prompt, TreeShape(size, depth, 3, least), limit)
            assert found.rounds(s, size) == live, (size, depth, s)
            accepted += sum(r[1] for r in live)
            branched += sum(r[0] > depth for r in live)
    assert branched > 5 and accepted > (15 if kind == "model" else 0)


@pytest.mark.slow
def test_the_mini_pair_does_what_replay_says() -> None:
    pair, prompt = load_pair("mini"), (noise_scene(0), QUESTIONS[0])
    recorded = record_trees(pair.target, pair.drafter, [prompt], 3, 2, max_new_tokens=10)
    live = rounds_of(pair.target, as_drafter(pair.drafter, pair.target), prompt, TreeShape(6, 3, 2), 10)
    found = trace_from_trees(recorded, [prompt], max_new_tokens=10).replay_trees(6, 3, 2)
    assert found.rounds(0, 6) == live
    assert found.num_accepted_tokens[0] > 0.5


def grown(chance: random.Random, answer: list[int]) -> Branches:
    """Any tree whose tokens are no surer than their parents, the answer's own tokens here and there."""
    tokens, parents, sure, level = list[int](), list[int](), list[float](), list[int]()
    for _ in range(chance.randrange(14)):
        parent = chance.randrange(-1, len(tokens))
        depth = level[parent] + 1 if parent >= 0 else 0
        token = answer[depth] if depth < len(answer) and chance.random() < 0.7 else chance.randrange(3)
        if (parent, token) not in zip(parents, tokens, strict=True):
            tokens.append(token)
            parents.append(parent)
            sure.append(chance.choice([0.25, 0.5, 1.0]) * (sure[parent] if parent >= 0 else 1.0))
            level.append(depth)
    return Branches(tokens, parents, sure)


def test_what_is_accepted_is_the_longest_path_that_the_answer_spells() -> None:
    chance, lengths = random.Random(3), set[int]()
    for case in range(200):
        answer = [chance.randrange(3) for _ in range(chance.randint(1, 9))]
        trees = [grown(chance, answer[i:]) for i in range(len(answer))]
        size, depth, least = chance.randint(1, 9), chance.randint(1, 4), chance.choice([0.0, 0.2])
        limit = chance.choice([None, len(answer), len(answer) + 2])
        (at, rounds) = (1, list[tuple[int, int, int]]())
        while at < len(answer):
            tokens, parents, sure = trees[at]
            paths = [[i] for i in range(len(tokens))]
            for path in paths:
                while parents[path[0]] >= 0:
                    path.insert(0, parents[path[0]])
            room = depth if limit is None else min(depth, limit - at - 1)
            fits = [path for path in paths if len(path) <= room and sure[path[-1]] >= least]
            best = [
                path for path in fits if sum((sure[o[-1]], -o[-1]) > (sure[path[-1]], -path[-1]) for o in fits) < size
            ]
            spelled = [p for p in best if [tokens[n] for n in p] == answer[at : at + len(p)]]
            accepted = max(map(len, spelled), default=0)
            rounds.append((len(best), accepted, min(accepted + 1, len(answer) - at)))
            at += rounds[-1][2]
            lengths.add(accepted)
        found = replay_trees([answer], [trees], size, depth, min_confidence=least, limit=limit)
        assert found.rounds(0, size) == rounds, case
    assert lengths == {0, 1, 2, 3, 4}


TREES: Any = {"depth": 2, "width": 2, "min_confidence": 0.1}
BRANCHES = [Branches([], [], []), Branches([6, 7, 5], [-1, -1, 0], [0.5, 0.25, 0.25])]
TRACE = Trace([TraceRow("a", "what?", [5, 6], branches=BRANCHES)], trees=TREES, source="x", max_new_tokens=9)


@pytest.mark.parametrize(
    ("shape", "found"),
    [((4, 2, 3, 0.1), "got 3, 2, 0.1"), ((4, 3, 2, 0.1), "got 2, 3"), ((4, 2, 2, 0.0), "got 2, 2, 0")],
)
def test_other_trees_than_those_recorded_are_refused(shape: Any, found: str) -> None:
    assert TRACE.replay_trees(4, 2, 2, 0.1).rounds(0, 4) == [(3, 1, 1)]
    with pytest.raises(
        ValueError, match=r"trace x: expected trees 2 wide, at most 2 deep, .*0\.1, as recorded"
    ) as caught:
        TRACE.replay_trees(*shape)
    assert found in str(caught.value)


def test_what_is_missing_is_said(target: TextModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trace x: no branches were recorded; `decoding.record_trees` grows them"):
        Trace([*TRACE.rows, TraceRow("b", "", [5])], trees=TREES, source="x").replay_trees(4, 2, 2)
    with pytest.raises(ValueError, match="branches has 2 values for 3 tokens"):
        Trace([TraceRow("a", "", [5, 6, 7], branches=BRANCHES)], trees=TREES)
    with pytest.raises(ValueError, match=r"trees: expected depth, min_confidence, width, got \{\}"):
        replace(TRACE, trees={})
    replace(TRACE, rows=[TraceRow("a", "", [5], branches=[Branches([4], [0], [0.5])])]).save(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: a: branches behind 0 tokens: no tree, found parents \[0\]"):
        Trace.load(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="a size and a depth of at least 1, got 0 and 1"):
        replay_trees([[5]], [BRANCHES[:1]], 0, 1)
    with pytest.raises(ValueError, match="one for each of the 2 tokens of 0, got 1"):
        replay_trees([[5, 6]], [BRANCHES[:1]], 1, 1)
    with pytest.raises(ValueError, match="sequence: drafts chains alone"):
        record_trees(target, SequenceDrafter(), TINY[:1], 2, 2)


def test_timed_trees_are_not_taken_for_chains(target: TextModel) -> None:
    """Costs and predictions count a drafter step a token; of a tree's run they would be silently wrong."""
    drafter, prompts = drafting("model", target), TINY[:3]
    made = [speculative_generate(target, drafter, *p, gamma=TreeShape(9, 3, 3), max_new_tokens=12) for p in prompts]
    depths = [event.info["depth"] for run in made for event in run.events if event.stage == "draft"]
    runs = {"tree": Timed(made)}
    trace = trace_from_runs(runs, prompts)
    with pytest.raises(ValueError, match="drafts that are trees"):
        recorded_schedule(trace)
    with pytest.raises(ValueError, match="fit: runs that draft trees"):
        fit_trace(trace, "tree")
    (totals,) = trace_totals(trace)
    assert totals.gamma == pytest.approx(sum(depths) / sum(len(run.rounds) for run in made)) and max(depths) == 3


class Timed:
    def __init__(self, generations: list[Any]):
        self.generations = generations
        self.seconds = [run.wall_seconds for run in generations]
        self.token_ids = [run.token_ids.tolist() for run in generations]
