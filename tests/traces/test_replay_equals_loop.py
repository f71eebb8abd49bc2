"""Replay against the real loop, token for token and pass for pass: the shipped mini pair, and tiny random models."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from egptlib.decoding import (
    AdaptiveLength,
    CascadeDrafter,
    Draft,
    FixedLength,
    ModelDrafter,
    PromptReader,
    Recorder,
    Sampler,
    Sampling,
    Stop,
    as_drafter,
    speculative_decode,
    speculative_generate,
)
from egptlib.measuring import Agreement, record_agreement
from egptlib.measuring._agreement import _padded
from egptlib.metrics import Costs, expected_accepted, replay, replay_policy
from egptlib.models import Model, Pair, load_pair, shared_vocabulary
from egptlib.scenes import Scene
from egptlib.traces import trace_from_agreement, trace_from_generations
from tests.decoding.conftest import TextModel, make_model
from tests.metrics.cascades import replay_cascade

Prompt = tuple[Scene, str]

LIMIT = 30
GAMMAS = (1, 4, 16)
QUESTIONS = ("What is this scene about?", "What are the key elements in this scene?", "How many lanes are there?")


def noise_scene(number: int) -> Scene:
    random = np.random.default_rng(number)
    return Scene(
        id=f"noise_{number}",
        sequence="noise",
        event_images=[random.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(5)],
        frames=random.integers(0, 256, (8, 96, 96, 3), dtype=np.uint8),
        questions=QUESTIONS,
        answers=None,
        rendering="last",
        frame_sampling="even",
        frame_indices=tuple(range(8)),
        metadata={"events": "simulated", "load_seconds": 0.0},
    )


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("mini")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [(noise_scene(0), question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def target() -> TextModel:
    return make_model(0, layers=3, name="target")


@pytest.fixture(scope="module")
def drafter(target: TextModel) -> TextModel:
    return make_model(1, layers=3, like=target, noise=0.15, name="drafter")


@pytest.fixture(scope="module")
def recorded(pair: Pair, prompts: list[Prompt]) -> Agreement:
    return record_agreement(pair.target, pair.drafter, prompts, LIMIT)


def test_what_was_recorded_is_one_pass_of_transformers_along_the_answer(
    pair: Pair, prompts: list[Prompt], recorded: Agreement
) -> None:
    for s, (scene, question) in enumerate(prompts):
        ids = recorded.token_ids[s]
        _, logits = pair.drafter.forward_answer(pair.drafter.encode(scene, question), ids)
        top, sure = logits.argmax(dim=-1), logits.softmax(dim=-1).amax(dim=-1).double().numpy()
        assert recorded.match[s, : len(ids)].tolist() == np.equal(top.tolist(), ids).tolist()
        assert recorded.confidence[s, : len(ids)] == pytest.approx(sure, abs=1e-4)
        assert not recorded.match[s, len(ids) :].any()
    trace = trace_from_agreement(
        recorded, prompts, end_token_ids=tuple(pair.target.eos_token_ids), max_new_tokens=LIMIT
    )
    assert (trace.match == recorded.match).all() and (trace.drafter_ends == recorded.ends).all()
    assert (trace.values("confidence") == recorded.confidence).all()


@pytest.mark.parametrize(
    ("free", "min_confidence", "then_plain"), [(0, 0.0, False), (1, 0.0, False), (6, 0.7, False), (6, 0.0, True)]
)
def test_the_loop_does_what_replay_says(
    pair: Pair, prompts: list[Prompt], recorded: Agreement, min_confidence: float, free: int, then_plain: bool
) -> None:
    stops = recorded.ends | (recorded.confidence < min_confidence)
    replayed = replay(
        recorded.match, recorded.lengths, GAMMAS, limit=LIMIT, free=free, stops=stops, then_plain=then_plain
    )
    assert any(k > 1 for k in replayed.histogram(16))  # something was accepted, or nothing is tested
    for s, (scene, question) in enumerate(prompts):
        for gamma in GAMMAS:
            recorder = Recorder()
            drafter = as_drafter(pair.drafter, pair.target)
            assert isinstance(drafter, ModelDrafter)
            state = PromptReader(pair.target, scene, "target").read(question, recorder)
            drafter.start(scene, question, recorder)
            draft = drafter.propose([], free, Sampler()) if free else None
            found = speculative_decode(
                pair.target,
                state,
                drafter,
                gamma=FixedLength(0 if then_plain else gamma, min_confidence),
                max_new_tokens=LIMIT,
                recorder=recorder,
                draft=draft,
            )
            assert found.token_ids.tolist() == recorded.token_ids[s]
            expected = replayed.rounds(s, gamma)
            assert [(r.accepted, r.gained) for r in found.rounds] == [(a, g) for _, a, g in expected]


class Skipping(FixedLength):
    """Drafts nothing at some positions of an answer, and not at all for every other answer."""

    def __init__(self, gamma: int, idle: np.ndarray):
        super().__init__(gamma)
        self.idle, self.answer, self.at = idle, -1, 1

    def pays(self, max_new_tokens: int) -> bool:
        self.answer += 1
        return self.answer % 2 == 0

    def start(self) -> None:
        self.at = 1

    def count(self) -> int:
        return 0 if self.idle[self.at] else self.gamma

    def observe(self, drafted: int, accepted: int) -> None:
        self.at += accepted + 1


TINY: Any = [([token, 5, 9 + token % 3, 7, 21], "") for token in range(3, 11)]


@pytest.mark.parametrize("kind", ["skip", "adaptive", "sure and adaptive"])
def test_the_loop_skips_and_adapts_as_replay_says(kind: str, target: TextModel, drafter: TextModel) -> None:
    recorded = record_agreement(target, drafter, TINY, LIMIT)
    tensors: Any = [torch.tensor(ids) for ids in recorded.token_ids]  # as a `Generation` has them
    known = record_agreement(target, drafter, iter(TINY), LIMIT, tensors)  # not decoded once more
    assert known.token_ids == recorded.token_ids and known.drafter_ids == recorded.drafter_ids
    assert (known.match == recorded.match).all() and (known.own_lengths == recorded.own_lengths).all()
    with pytest.raises(ValueError, match="answers: expected one for each of 8 prompts, found 7"):
        record_agreement(target, drafter, TINY, LIMIT, recorded.token_ids[1:])
    idle = np.random.default_rng(0).random(LIMIT) < 0.3
    costs = Costs(1.0, 0.1, verify={8: 1.3}, drafter_stages={"prefill": 2.0})

    def policy() -> Any:
        if kind == "skip":
            return Skipping(4, idle)
        return AdaptiveLength(costs, alpha=0.6, min_confidence=0.6 if "sure" in kind else 0.0)

    replayed, reads = replay_policy(
        recorded.match,
        recorded.lengths,
        policy(),
        limit=LIMIT,
        confidence=recorded.confidence,
        ends=recorded.ends,
    )
    length = policy()
    sizes = set()
    for s, (scene, question) in enumerate(TINY):
        found = speculative_generate(target, drafter, scene, question, gamma=length, max_new_tokens=LIMIT)
        assert found.token_ids.tolist() == recorded.token_ids[s]
        expected = replayed.rounds(s, length.gamma)
        assert [(r.accepted, r.gained) for r in found.rounds] == [(a, g) for _, a, g in expected]
        assert reads[s] == any(event.lane == "drafter" for event in found.events)
        sizes |= {r.drafted for r in found.rounds}
    assert len(sizes) > (1 if kind == "skip" else 2)  # it did skip, or adapt
    if kind == "skip":  # the same by the vectorised replay
        rows = np.arange(len(TINY)) % 2 == 1
        skip = rows[:, None] | idle[None, : recorded.match.shape[1]]
        again = replay(recorded.match, recorded.lengths, [4], limit=LIMIT, skip=skip, stops=recorded.ends)
        assert [again.rounds(s, 4) for s in range(len(TINY))] == [replayed.rounds(s, 4) for s in range(len(TINY))]


class CascadeAgreement(NamedTuple):
    """What `replay_cascade` reads; `agree` [sample, position, depth] is along the middle model's own continuation."""

    token_ids: list[list[int]]
    match: np.ndarray
    agree: np.ndarray
    reach: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.token_ids], dtype=np.int64)


def said_along(reader: ModelDrafter, answer: list[int]) -> list[int]:
    """The next token of a model, as the target numbers it, before each token of an answer."""
    reader.catch_up(reader.vocabulary.to_drafter(answer[:-1]))
    rows = torch.stack(reader.rows)[reader.vocabulary.places(answer)]
    return reader.vocabulary.to_target(reader.model.lm_head(rows)).argmax(dim=-1).tolist()


@torch.no_grad()
def record_cascade(
    target: Model,
    middle: Model,
    drafter: Model,
    prompts: Iterable[tuple[Any, str]],
    *,
    depth: int,
    max_new_tokens: int = 50,
) -> CascadeAgreement:
    """The middle model's continuations, and the drafter along them.

    Where the middle model agrees with the target its continuation is known from the next position on, so it writes one
    only where they differ.
    """
    theirs, ours = shared_vocabulary(middle, target), shared_vocabulary(drafter, target)
    answers, matches, agrees, reaches = [], [], [], []
    for scene, question in prompts:
        answer = target.decode_greedy(target.start(scene, question), max_new_tokens)[0].tolist()
        readers = ModelDrafter(middle, theirs), ModelDrafter(drafter, ours)
        for reader in readers:
            reader.start(scene, question, Recorder())
        says, own = (said_along(reader, answer) for reader in readers)
        match = np.equal(says, answer)
        agree = np.zeros((len(answer), depth), dtype=bool)
        reach = np.ones(len(answer), dtype=np.int64)
        for i in reversed(range(len(answer))):
            agree[i, 0] = own[i] == says[i]
            if says[i] in theirs.end_token_ids:
                continue
            if match[i] and i + 1 < len(answer):
                agree[i, 1:], reach[i] = agree[i + 1, :-1], reach[i + 1] + 1
                continue
            branch = readers[0].propose(answer[:i], depth, Sampler()).tokens
            said = said_along(readers[1], [*answer[:i], *branch])[i + 1 :]
            agree[i, 1 : len(branch)] = np.equal(said, branch[1:])
            reach[i] = len(branch)
        answers.append(answer)
        matches.append(match)
        agrees.append(agree)
        reaches.append(reach)
    return CascadeAgreement(answers, _padded(matches), _padded(agrees), _padded(reaches))


@pytest.mark.parametrize(
    ("drafter_noise", "inner_gamma"),
    [
        (0.12, 3),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in [(0.12, 0), (0.12, 1), (0, 0), (0, 1), (0, 3)]),
    ],
)
def test_a_cascade_does_what_replay_says(drafter_noise: float, inner_gamma: int, target: TextModel) -> None:
    middle = make_model(11, layers=3, like=target, noise=0.12, name="middle")
    small = make_model(12, layers=3, like=middle, noise=drafter_noise, name="small")
    recorded = record_cascade(target, middle, small, TINY, depth=8, max_new_tokens=LIMIT)
    gammas = [2, 7]
    replayed = replay_cascade(
        recorded.match, recorded.agree, recorded.lengths, gammas, inner_gamma, limit=LIMIT, reach=recorded.reach
    )
    accepted = 0
    for (s, (scene, question)), (g, gamma) in product(enumerate(TINY), enumerate(gammas)):
        cascade = Counted(middle, as_drafter(small, middle), shared_vocabulary(middle, target), gamma=inner_gamma)
        found = speculative_generate(target, cascade, scene, question, gamma=gamma, max_new_tokens=LIMIT)
        assert found.token_ids.tolist() == recorded.token_ids[s]
        assert [tuple(r) for r in found.rounds] == replayed.target.rounds(s, gamma)
        made = replayed.passes[:, s, g] > 0
        assert [len(call) for call in cascade.calls] == replayed.passes[made, s, g].tolist()
        assert [sum(a for _, a in call) for call in cascade.calls] == replayed.accepted[made, s, g].tolist()
        drafted = [sum(d for d, _ in call) for call in cascade.calls]
        assert all(a <= b for a, b in zip(drafted, replayed.drafted[made, s, g], strict=True))
        accepted += int(replayed.accepted[:, s, g].sum())
    assert (accepted > 0) == (inner_gamma > 0)
    assert recorded.match.sum() < recorded.lengths.sum()  # the middle model leaves the target's path


class Counted(CascadeDrafter):
    """Keeps the inner verifications apart by the target's rounds."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.calls: list[list[tuple[int, int]]] = []

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        before = len(self.accepted)
        draft = super().propose(answer, count, sampler, stop)
        self.calls.append(self.accepted[before:])
        return draft


@pytest.mark.slow
def test_sampled_drafts_are_accepted_as_far_as_the_overlaps_say(target: TextModel, drafter: TextModel) -> None:
    """The first draft of sampled runs against its expectation over answers that the target drew alone."""
    scene, gamma, limit, sampling = [3, 5, 12, 7, 21], 4, 8, Sampling(temperature=0.7)
    chance = torch.Generator().manual_seed(1)
    options: Any = dict(max_new_tokens=limit, sampling=sampling, generator=chance)
    overlap, ratio, lengths = np.zeros((150, limit)), np.zeros((150, limit)), np.zeros(150, dtype=np.int64)
    for i in range(150):
        ids = speculative_generate(target, drafter, scene, "", gamma=0, **options).token_ids
        p, q = (sampling.probabilities(m.forward_answer(m.encode(scene, ""), ids)[1]) for m in (target, drafter))
        at = torch.arange(len(ids)), ids
        overlap[i, : len(ids)] = torch.minimum(p, q).sum(-1).clamp(max=1).double().numpy()
        ratio[i, : len(ids)] = (q[at] / p[at]).clamp(max=1).double().numpy()
        lengths[i] = len(ids)
    going_on = lengths > 1
    expected = expected_accepted(overlap, lengths, [gamma], ratio)[0, going_on, 1]
    runs = [speculative_generate(target, drafter, scene, "", gamma=gamma, **options) for _ in range(300)]
    found = np.array([run.rounds[0].accepted for run in runs if run.rounds])
    error = np.sqrt(found.var() / found.size + expected.var() / expected.size)
    assert 0.3 < found.mean() < gamma - 0.3  # some are refused, some are not
    assert abs(found.mean() - expected.mean()) < 2.6 * error  # 99 %


@torch.no_grad()
def test_sampled_drafts_of_the_mini_pair_are_accepted_as_far_as_the_overlaps_say(pair: Pair) -> None:
    """The same with the shipped pair: the draft that is made before the target's first token."""
    scene, question, gamma, sampling = noise_scene(0), QUESTIONS[0], 3, Sampling(temperature=3.0)
    chance = torch.Generator().manual_seed(2)
    sampler, count = Sampler(sampling, chance), 100
    states = [model.start(scene, question) for model in (pair.target, pair.drafter)]
    drafter = as_drafter(pair.drafter, pair.target)
    assert isinstance(drafter, ModelDrafter)
    begin, first = [state.length for state in states], [state.logits for state in states]

    def afresh() -> None:
        for model, state, length, logits in zip((pair.target, pair.drafter), states, begin, first):
            model.rollback(state, length)
            state.logits = logits

    overlap, ratio = np.zeros((count, gamma)), np.zeros((count, gamma))
    for i in range(count):
        afresh()
        ids: list[int] = []
        seen: list[list[torch.Tensor]] = [[logits[0]] for logits in first]
        for position in range(gamma):
            ids.append(sampler.choose(seen[0][-1]))
            if position < gamma - 1:
                for model, state, rows in zip((pair.target, pair.drafter), states, seen):
                    rows.append(model.step(torch.tensor([ids[-1:]]), state).logits[0, -1])
        theirs, own = (torch.stack(rows) for rows in seen)
        p, q = (sampling.probabilities(logits) for logits in (theirs, drafter.vocabulary.to_target(own)))
        overlap[i] = torch.minimum(p, q).sum(-1).clamp(max=1).double().numpy()
        at = torch.arange(gamma), torch.tensor(ids)
        ratio[i] = (q[at] / p[at]).clamp(max=1).double().numpy()
    expected = expected_accepted(overlap, np.full(count, gamma), [gamma], ratio)[0, :, 0]
    afresh()
    drafter.begin(states[1])
    found = []
    for _ in range(count):
        pair.target.rollback(states[0], begin[0])
        states[0].logits = first[0]
        draft = drafter.propose([], gamma, sampler)
        run = speculative_decode(
            pair.target, states[0], drafter, max_new_tokens=gamma + 1, sampling=sampling, generator=chance, draft=draft
        )
        found.append(run.rounds[0].accepted)
    assert 0.2 < np.mean(found) < gamma - 0.2  # some are refused, some are not
    error = np.sqrt(np.var(found) / count + expected.var() / count)
    assert abs(np.mean(found) - expected.mean()) < 2.6 * error  # 99 %


def test_a_timed_run_leaves_a_trace(pair: Pair, prompts: list[Prompt]) -> None:
    scene, question = prompts[0]
    recorder = Recorder()
    drafter = as_drafter(pair.drafter, pair.target)
    state = PromptReader(pair.target, scene, "target").read(question, recorder)
    drafter.start(scene, question, recorder)
    generation = speculative_decode(pair.target, state, drafter, gamma=3, max_new_tokens=LIMIT, recorder=recorder)
    (row,) = trace_from_generations([generation], [(scene, question)], "gamma 3").rows
    assert torch.tensor(row.target_ids).equal(generation.token_ids)
    assert row.rounds == [tuple(r) for r in generation.rounds]
    assert row.total_seconds is not None and row.total_seconds >= sum(row.target_stages.values())
