"""Draft trees: greedy answers are plain decoding's, drawn ones the target's own law, and what is kept is one path."""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from egptlib.adapters import HeadRun, create_adapter
from egptlib.decoding import (
    AdapterDrafter,
    CascadeDrafter,
    Draft,
    Drafter,
    DrafterThread,
    HeadDrafter,
    Lossless,
    ModelDrafter,
    NgramDrafter,
    Recorder,
    Sampler,
    Sampling,
    SceneSession,
    SequenceDrafter,
    TopK,
    TreeShape,
    acceptance_by_rank,
    hidden_prefill_generate,
    round_tokens,
    speculative_generate,
)
from egptlib.decoding._trees import grow
from egptlib.models import shared_vocabulary, tree_paths

from .conftest import VOCAB, TextModel, make_model, plain
from .test_sampling import SMALL, run_often


class RandomTrees(SequenceDrafter):
    """Trees of any form: several roots, siblings far apart, the answer's own tokens here and there."""

    def __init__(self, seed: int, answer: list[int]):
        super().__init__(name="random trees")
        self.random, self.answer = random.Random(seed), answer

    def propose_tree(self, answer: Sequence[int], shape: TreeShape, depth: int, sampler: Sampler) -> Draft:
        tokens, parents, levels = list[int](), list[int](), list[int]()
        for _ in range(self.random.randint(0, shape.size)):
            parent = self.random.randrange(-1, len(tokens))
            level = levels[parent] + 1 if parent >= 0 else 0
            if level == depth:
                continue
            right = self.answer[len(answer) + level : len(answer) + level + 1]
            token = right[0] if right and self.random.random() < 0.6 else self.random.randrange(VOCAB)
            if not any(token == other and parent == above for other, above in zip(tokens, parents, strict=True)):
                tokens.append(token)
                parents.append(parent)
                levels.append(level)
        return Draft(tokens, [1.0] * len(tokens), parents=parents)


def head_drafter(level: str, target: TextModel) -> HeadDrafter:
    """An untrained head that repeats the state it is given, or nearly."""
    torch.manual_seed(3)
    layers = (1, 2) if level in ("E3", "E3S", "DF") else ()
    more = {"num_source_layers": 2} if layers else {}
    head: Any = create_adapter(level, hidden_size=32, num_heads=4, ffn_dim=48, max_positions=64, **more)
    return HeadDrafter(target, head, target, shared_vocabulary(target, target), layers)


@pytest.fixture(params=["lean", "own"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "own":
        monkeypatch.setattr("egptlib.models._interface.lean_pass", lambda *_: None)
    return request.param


SLOW = [pytest.param(level, marks=pytest.mark.slow) for level in ("E3S", "DF")]


@pytest.mark.parametrize("kind", ["model", "random", "n-grams", "E3", "B1", *SLOW])
def test_greedy_equals_plain_decoding(kind: str, reading: str, target: TextModel, drafter: TextModel) -> None:
    chance = random.Random(kind)
    accepted = branched = 0
    for case in range(5):
        prompt = [chance.randrange(3, VOCAB) for _ in range(chance.randint(1, 12))]
        limit = chance.randint(1, 20) if case else 40
        shape = TreeShape(chance.randint(1, 14), chance.randint(1, 6), chance.randint(1, 4), chance.choice([0, 0, 0.1]))
        expected = plain(target, prompt, limit)
        proposes: Drafter = RandomTrees(case, expected)
        if kind == "model":
            proposes = ModelDrafter(drafter, shared_vocabulary(drafter, target))
        elif kind == "n-grams":
            proposes = NgramDrafter(max_ngram=2)
        elif kind != "random":
            proposes = head_drafter(kind, target)
        out = speculative_generate(target, proposes, prompt, "", gamma=shape, max_new_tokens=limit)
        assert out.token_ids.tolist() == expected, (case, prompt, limit)
        assert sum(r.gained for r in out.rounds) == len(expected) - 1
        assert all(r.accepted <= min(r.drafted, shape.depth) and r.drafted <= shape.size for r in out.rounds)
        accepted += sum(r.accepted for r in out.rounds)
        branched += sum("parents" in e.info for e in out.events)
    assert branched > 5
    assert accepted > (15 if kind in ("model", "random") else 1)


def test_nodes_see_their_own_path_alone(reading: str, target: TextModel) -> None:
    """Each node's logits are those of its path read as a chain, over passes that go on growing one tree; and so are
    those read behind the path that is kept."""
    prompt, tokens, parents = [5, 9, 4, 7], [3, 7, 8, 9, 10, 11, 8], [-1, 0, 0, 1, 2, -1, 5]
    for path in ([0, 2, 4], [5, 6], [0, 1, 3], [0], []):
        state = target.prefill(target.encode(prompt, ""))
        first = target.step(torch.tensor([tokens[:3]]), state, parents[:3]).logits[0]
        found = torch.cat([first, target.step(torch.tensor([tokens[3:]]), state, parents[3:]).logits[0]])
        for node, own in enumerate(tree_paths(parents)):
            expected = whole(target, [*prompt, *(tokens[i] for i in own)])
            torch.testing.assert_close(found[node], expected, atol=3e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="settle"):
            target.read(torch.tensor([[3]]), state)
        target.settle(state, path)
        kept = [*prompt, *(tokens[i] for i in path)]
        assert state.length == len(kept) == state.cache.get_seq_length()
        found = target.step(torch.tensor([[6, 12]]), state).logits[0, -1]
        torch.testing.assert_close(found, whole(target, [*kept, 6, 12]), atol=3e-5, rtol=1e-5)


def whole(model: TextModel, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        return model.module(torch.tensor([tokens])).logits[0, -1]


def test_a_drafters_tree_is_what_it_says_behind_each_path(
    target: TextModel, drafter: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every node's joint confidence is the product of the drafter's own probabilities along its path, the tree holds
    the best there are, and the next draft goes on from what was kept, without reading it again."""
    proposes = ModelDrafter(drafter, shared_vocabulary(drafter, target))
    prompt, answer = [5, 9, 4, 7], [6]
    proposes.start(prompt, "", Recorder())
    shape, news = TreeShape(12, 3, 4), list[list[int]]()
    read_on = proposes.read_on

    def noted(tokens: list[int]) -> None:
        news.append(tokens)
        read_on(tokens)

    monkeypatch.setattr(proposes, "read_on", noted)
    for turn in range(3):
        draft = proposes.propose_tree(answer, shape, 3, Sampler())
        assert news[turn:] == [answer[-2:]]  # the deepest node of a path was drafted, not read
        assert draft.parents is not None and len(draft.tokens) == 12
        for path, sure in zip(tree_paths(draft.parents), draft.confidence, strict=True):
            tokens = [draft.tokens[node] for node in path]
            assert joint(drafter, [*prompt, *answer], tokens) == pytest.approx(sure, rel=1e-4)
        # Beside the tree nothing is better: no child of its inner nodes that was left out.
        for level, _ in enumerate(draft.tokens):
            assert level == 0 or draft.parents[level] < level
        firsts = whole(drafter, [*prompt, *answer]).softmax(dim=-1).topk(2).indices.tolist()
        assert [draft.tokens[node] for node, parent in enumerate(draft.parents) if parent == -1][:2] == firsts
        answer += [draft.tokens[node] for node in max(tree_paths(draft.parents), key=len)] + [8]


def joint(model: TextModel, before: list[int], tokens: list[int]) -> float:
    sure = 1.0
    for i, token in enumerate(tokens):
        sure *= float(whole(model, [*before, *tokens[:i]]).softmax(dim=-1)[token])
    return sure


def test_a_heads_tree_is_what_its_chain_says(target: TextModel) -> None:
    """Behind each node E3's logits are those of a head that ran ahead along this path alone."""
    proposes = head_drafter("E3", target)
    prompt, answer = [5, 9, 4, 7], [6, 11]
    state = target.prefill(target.encode(prompt, ""), proposes.source_layers)
    proposes.start(prompt, "", Recorder())
    read = [state.hidden[0]]
    layers = [torch.stack([state.layers[number] for number in proposes.source_layers], dim=1)]
    read.append(target.read(torch.tensor([answer[:1]]), state)[0])
    layers.append(torch.stack([state.layers[number] for number in proposes.source_layers], dim=1))
    proposes.watch(torch.cat(read), torch.cat(layers))
    draft = proposes.propose_tree(answer, TreeShape(60, 4, 3), 4, Sampler())
    assert draft.parents is not None and draft.logits is not None
    for path in tree_paths(draft.parents):
        tokens = [draft.tokens[node] for node in path]
        run, head = proposes._run, proposes.head
        assert isinstance(run, HeadRun)
        run.crop(0)
        states = [run.read(*proposes._rows(answer, 0))]
        states += [run.go_on(*proposes._ahead(torch.tensor([token]))) for token in tokens[:-1]]
        assert head.level == "E3"
        torch.testing.assert_close(draft.logits[path[-1]], target.lm_head(states[-1]))


class Choices(Sampler):
    """Takes every random choice in turn: `walked` runs something once for each combination, with its probability."""

    def __init__(self) -> None:
        super().__init__(Sampling())
        self.script: list[int] = []
        self.open: list[int] = []

    def choose_of(self, weights: list[float]) -> int:
        if self.at == len(self.script):
            self.script.append(0)
            self.open.append(len(weights))
        taken = self.script[self.at]
        self.at += 1
        if weights[taken] == 0:
            raise Impossible
        self.weight *= weights[taken] / sum(weights)
        return taken

    def draw(self, probabilities: Tensor) -> int:
        return self.choose_of(probabilities.double().tolist())

    def uniform(self, count: int) -> list[float]:
        return [Uniform(self) for _ in range(count)]  # type: ignore[misc]

    def walked(self, run: Callable[[], list[int]]) -> Iterator[tuple[list[int], float]]:
        self.script, self.open = [], []
        while True:
            self.at, self.weight = 0, 1.0
            with suppress(Impossible):
                yield run(), self.weight
            while self.script and self.script[-1] + 1 == self.open[-1]:
                self.script.pop()
                self.open.pop()
            if not self.script:
                return
            self.script[-1] += 1


class Impossible(Exception):
    """A choice of probability zero."""


class Uniform:
    """u in [0, 1): `u * q < p` holds with probability min(1, p / q)."""

    def __init__(self, choices: Choices):
        self.choices = choices

    def __mul__(self, q: float) -> "Uniform":
        self.q = q
        return self

    def __lt__(self, p: float) -> bool:
        share = min(1.0, p / self.q)
        return self.choices.choose_of([share, 1 - share]) == 0

    def __ge__(self, p: float) -> bool:
        return not self < p


@pytest.mark.parametrize(
    ("shape", "certain"),
    [
        (TreeShape(3, 1, 3), False),
        (TreeShape(5, 2, 2), False),
        (TreeShape(6, 2, 3, 0.2), False),
        (TreeShape(6, 2, 3), True),
        (None, True),
    ],
)
def test_the_law_of_a_round_by_enumeration(shape: TreeShape | None, certain: bool) -> None:
    """Growing and judging one tree, over all draws and refusals there can be: its next two tokens are distributed as
    the target's, for a drafter unlike it. Exact, so no share of the law goes unseen."""
    draws = torch.Generator().manual_seed(5)
    laws: dict[tuple[int, ...], Tensor] = {
        own: (2.0 * torch.randn(2, 3, generator=draws)).softmax(dim=-1) for own in ((), (0,), (1,), (2,))
    }
    laws[(1,)][0] = torch.tensor([0.0, 0.7, 0.3])  # what the target never says must not come out
    choices = Choices()

    def run() -> list[int]:
        read = list[tuple[int, ...]]()

        def reads(tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
            for token, parent in zip(tokens, parents, strict=True):
                read.append((*(read[parent] if parent >= 0 else ()), token))
            return torch.stack([laws[own][1] for own in read[-len(tokens) :]]).log()

        if shape is None:
            draft = Draft([0, 1, 2, 0], [1.0] * 4, parents=[-1, -1, 1, 1])
        elif certain:
            draft = NgramDrafter(max_ngram=1).propose_tree([1, 0, 2, 1, 2, 0, 1], shape, 2, choices)
            assert draft.tokens == [2, 0, 0, 2] and draft.parents == [-1, 0, -1, 2]
        else:
            draft = grow(laws[()][1].log(), reads, shape, shape.depth, choices, frozenset())
        chain = range(-1, len(draft.tokens) - 1)
        paths = tree_paths(chain if draft.parents is None else draft.parents)
        owns = [(), *(tuple(draft.tokens[node] for node in path) for path in paths)]
        logits = torch.stack([laws[own][0] if own in laws else torch.ones(3) / 3 for own in owns]).log()
        verdict = Lossless()(draft, logits, torch.empty(0), choices)
        kept = range(verdict.accepted) if verdict.path is None else verdict.path
        gained = [*(draft.tokens[node] for node in kept), verdict.token]
        return gained[:2] if len(gained) > 1 else [*gained, choices.draw(laws[(gained[0],)][0])]

    found = torch.zeros(3, 3, dtype=torch.float64)
    for gained, weight in choices.walked(run):
        found[tuple(gained)] += weight
    expected = torch.stack([laws[()][0][token] * laws[(token,)][0] for token in range(3)]).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "sampling"),
    [
        (TreeShape(6, 2, 3), Sampling(1.5)),
        (TreeShape(9, 2, 4, 0.05), Sampling(0.8, top_k=4)),
        (TreeShape(8, 3, 2), Sampling(1.2, top_p=0.9)),
    ],
)
def test_answers_are_distributed_as_the_targets_own(shape: TreeShape, sampling: Sampling) -> None:
    small = make_model(5, SMALL, 1)
    other = make_model(6, SMALL, 1, small, noise=0.6)
    found = run_often(small, ModelDrafter(other, shared_vocabulary(other, small)), shape, sampling)
    assert found.accepted > 50 and found.rejected > 50
    assert found.statistic < found.bound


def test_who_knows_chains_alone_is_named(target: TextModel, drafter: TextModel) -> None:
    shape, own = TreeShape(4, 2, 2), shared_vocabulary(drafter, target)
    aligned = AdapterDrafter(drafter, create_adapter("L1", hidden_size=32), target, own)
    for proposes in (SequenceDrafter(), aligned, CascadeDrafter(drafter, NgramDrafter(), own)):
        with pytest.raises(ValueError, match=f"{re.escape(proposes.name)}: drafts chains alone"):
            speculative_generate(target, proposes, [5, 9], "", gamma=shape)
    with pytest.raises(ValueError, match=r"top-3 \(lossy\): this rule judges chains alone"):
        speculative_generate(target, drafter, [5, 9], "", gamma=shape, rule=TopK(3))
    for field in ("size", "depth", "width"):
        with pytest.raises(ValueError, match=f"{field}: expected at least 1, found 0"):
            TreeShape(**{"size": 4, "depth": 2, "width": 2, field: 0})


def test_ngrams_branch_where_other_places_went_on_otherwise() -> None:
    drafter, answer = NgramDrafter(max_ngram=2), [5, 6, 7, 8, 5, 6, 7, 9, 4, 6, 3, 5, 6, 8, 9, 5, 6]

    def tree(*shape: int, depth: int = 9) -> tuple[list[int], list[int] | None]:
        draft = drafter.propose_tree(answer, TreeShape(*shape), depth, Sampler())
        assert draft.confidence == [1.0] * len(draft.tokens)
        return draft.tokens, draft.parents

    # (5, 6) counts, which stood at 11, 4 and 0; what followed 6 alone does not.
    assert tree(20, 3, 9) == ([8, 9, 5, 7, 9, 4, 8, 5], [-1, 0, 1, -1, 3, 4, 3, 6])
    assert tree(20, 3, 9, depth=2) == ([8, 9, 7, 9, 8], [-1, 0, -1, 2, 2])
    assert tree(20, 3, 2) == ([8, 9, 5, 7, 9, 4], [-1, 0, 1, -1, 3, 4])
    assert tree(4, 3, 9) == ([8, 9, 5, 7], [-1, 0, 1, -1])
    assert tree(3, 9, 9) == ([8, 9, 5], None)
    assert drafter.propose_tree([5, 6, 7], TreeShape(9, 9, 9), 9, Sampler()).tokens == []


def test_a_session_asks_with_trees(target: TextModel, drafter: TextModel) -> None:
    prompt, questions, shape = [5, 9, 4, 7], ["6 7", "6 8 9"], TreeShape(8, 4, 3)
    answers = SceneSession(target, drafter, prompt).ask_all(questions, gamma=shape, max_new_tokens=12)
    for question, answer in zip(questions, answers, strict=True):
        read = [*prompt, *(int(word) for word in question.split())]
        assert answer.token_ids.tolist() == plain(target, read, 12)


def test_a_head_drafts_trees_behind_a_hidden_prefill(target: TextModel, drafter: TextModel) -> None:
    own = ModelDrafter(drafter, shared_vocabulary(drafter, target))
    with DrafterThread(own, target.eos_token_ids) as beside:
        found = hidden_prefill_generate(
            target, beside, [5, 9, 4], "", overlap=False, max_free_tokens=2, gamma=TreeShape(8, 4, 3),
            max_new_tokens=16, then=head_drafter("E3", target),
        )  # fmt: skip
    assert found.token_ids.tolist() == plain(target, [5, 9, 4], 16)
    assert any("parents" in e.info for e in found.events)


def test_acceptance_by_rank_is_the_drafters_own(target: TextModel, drafter: TextModel) -> None:
    """With every child in the tree: the rank of the target's next token among the drafter's, round by round."""
    prompt, width, depth = [5, 9, 4, 7], 3, 2
    shape = TreeShape(1000, depth, width)
    out = speculative_generate(target, drafter, prompt, "", gamma=shape, max_new_tokens=30)
    ids, at = out.token_ids.tolist(), 1
    reached, went = np.zeros((depth, 1)), np.zeros((depth, width))
    for r in out.rounds:
        if not r.drafted:
            continue
        for level in range(min(depth, len(ids) - at, 30 - at - 1)):
            law = whole(drafter, [*prompt, *ids[: at + level]])
            best = law.topk(width).indices.tolist()
            reached[level] += 1
            if ids[at + level] not in best:
                break
            went[level, best.index(ids[at + level])] += 1
        at += r.gained
    np.testing.assert_allclose(acceptance_by_rank([out], depth, width), went / reached)
    assert went[:, 1:].sum() > 2
    told = round_tokens(out)
    draft = next(e.info for e in out.events if e.stage == "draft")
    assert sorted(told[0].accepted + told[0].rejected) == sorted(draft["tokens"])


@pytest.mark.parametrize("width", [1, 2, 4])
def test_of_equals_a_tree_drafts_the_chains_token_first(width: int) -> None:
    """bfloat16 logits are often equal; verification takes `argmax`, the first of them."""
    logits = torch.zeros(1000, dtype=torch.bfloat16)
    logits[[7, 19, 36]] = 20.0
    best = grow(logits, lambda *_: torch.empty(0), TreeShape(4, 1, width), 1, Sampler(), frozenset()).tokens[:3]
    assert best[0] == 7 and best == sorted(best) and set(best) <= {7, 19, 36}
