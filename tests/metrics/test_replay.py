"""Replay against a plain loop that decodes one sample at a time, and expected lengths against enumeration."""

import inspect
import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from egptlib.metrics import Replay, expected_accepted, replay, replay_policy
from tests.metrics.cascades import agreement_ahead, replay_cascade


def plain_loop(match, n, gamma, limit=None, free=None, then_plain=False, stops=None, skip=None):
    """One sample as the decoding loop would go about it: returns rounds and the tokens known before them."""

    def draft(at, count):
        """Tokens the drafter writes from `at`, ending after a stop."""
        for k in range(count):
            if stops is not None and at + k < n and stops[at + k]:
                return k + 1
        return count

    def judge(at, count):
        accepted = 0
        while accepted < count and at + accepted < n and match[at + accepted]:
            accepted += 1
        return accepted

    rounds, position = [], 1
    if free:
        written = free if limit is None else min(free, limit - 1)
        accepted = judge(0, written)
        position = min(accepted + 1, n)
        if written:
            rounds.append((written, accepted, position))
        else:
            position = 1
    if free is not None and then_plain:
        gamma = 0
    while position < n:
        count = gamma if limit is None else min(gamma, limit - position - 1)
        if skip is not None and skip[position]:
            count = 0
        count = draft(position, count) if count else 0
        accepted = judge(position, count)
        gained = min(accepted + 1, n - position)
        rounds.append((count, accepted, gained))
        position += gained
    return rounds


def cases(count=300, width=14, seed=0):
    rng = np.random.default_rng(seed)
    match = rng.random((count, width)) < rng.choice([0.2, 0.6, 0.9, 1.0], (count, 1))
    lengths = rng.integers(1, width + 1, count)
    return rng, match, lengths


GAMMAS = [0, 1, 2, 3, 5, 8, 20]


@pytest.mark.parametrize("limit", [None, 14])
@pytest.mark.parametrize(
    "options", [(), ("free",), ("free", "then_plain"), ("stops",), ("skip",), ("free", "stops", "skip")]
)
def test_equals_a_plain_loop(limit, options):
    rng, match, lengths = cases()
    free = rng.integers(0, 18, match.shape[0]) if "free" in options else None
    stops = rng.random(match.shape) < 0.3 if "stops" in options else None
    skip = rng.random(match.shape) < 0.3 if "skip" in options else None
    result = replay(
        match, lengths, GAMMAS, limit=limit, free=free, then_plain="then_plain" in options, stops=stops, skip=skip
    )
    for s, gamma in itertools.product(range(match.shape[0]), GAMMAS):
        expected = plain_loop(
            match[s],
            int(lengths[s]),
            gamma,
            limit,
            None if free is None else int(free[s]),
            "then_plain" in options,
            None if stops is None else stops[s],
            None if skip is None else skip[s],
        )
        found = result.rounds(s, gamma)
        assert found == expected, (s, gamma)
    from_prefill = 1 if free is None else (free == 0)[:, None]
    assert (from_prefill + result.gained.sum(axis=0) == lengths[:, None]).all()


def test_plain_decoding_takes_one_pass_a_token() -> None:
    _, match, lengths = cases()
    result = replay(match, lengths, [0])
    assert (result.passes[:, 0] == lengths - 1).all()
    assert result.mean_acceptance_length[0] == 1.0
    assert result.num_accepted_tokens[0] == 0.0


def test_rounds_make_the_replay_they_came_from() -> None:
    _, match, lengths = cases(20)
    result = replay(match, lengths, [3])
    again = Replay.from_rounds([result.rounds(s, 3) for s in range(20)], 3)
    for name in ("gammas", "drafted", "accepted", "gained"):
        assert (getattr(again, name) == getattr(result, name)).all(), name
    assert Replay.from_rounds([[], []], 3).passes.tolist() == [[0], [0]]


def test_histogram_counts_every_verification() -> None:
    _, match, lengths = cases()
    result = replay(match, lengths, GAMMAS)
    for g, gamma in enumerate(GAMMAS):
        histogram = result.histogram(gamma)
        assert sum(histogram.values()) == result.passes[:, g].sum()
        assert sum(k * n for k, n in histogram.items()) == result.num_accepted[:, g].sum()
        assert max(histogram) <= gamma
    with pytest.raises(ValueError, match="gamma 7 was not replayed"):
        result.histogram(7)


def test_a_skipped_sample_is_decoded_plainly() -> None:
    _, match, lengths = cases()
    chosen = np.arange(match.shape[0]) % 2 == 0
    result = replay(match, lengths, [4], skip=chosen)
    assert (result.passes[chosen, 0] == lengths[chosen] - 1).all()
    assert (result.passes[~chosen] == replay(match[~chosen], lengths[~chosen], [4]).passes).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gammas": [-1]}, "0 or more"),
        ({"lengths": np.array([0, 3])}, "between 1 and 4"),
        ({"lengths": np.array([5, 3])}, "between 1 and 4"),
        ({"limit": 2}, "an answer has 3 tokens"),
        ({"free": -2}, "0 or more tokens"),
    ],
)
def test_bad_input(change, message):
    given = {"match": np.ones((2, 4), dtype=bool), "lengths": np.array([2, 3]), "gammas": [1]} | change
    with pytest.raises(ValueError, match=message):
        replay(given.pop("match"), given.pop("lengths"), given.pop("gammas"), **given)


class Chain:
    """Two first-order Markov chains over three tokens: a target p and a drafter q."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.p = rng.dirichlet([1.0] * 3, 3)
        self.q = rng.dirichlet([1.0] * 3, 3)

    def expected(self, before: int, gamma: int) -> float:
        """Accepted length of a draft drawn from q and judged by rejection, by enumeration of all drafts."""
        total = 0.0
        for k in range(1, gamma + 1):
            for prefix in itertools.product(range(3), repeat=k):
                total += math.prod(min(self.p[a, b], self.q[a, b]) for a, b in zip((before, *prefix), prefix))
        return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gamma", [1, 2, 4])
def test_expected_length_is_right_on_average_over_the_target_s_paths(seed: int, gamma: int) -> None:
    chain = Chain(seed)
    paths = list(itertools.product(range(3), repeat=gamma))
    weight = [math.prod(chain.p[a, b] for a, b in zip((0, *path), path)) for path in paths]
    overlap = np.array([[np.minimum(chain.p[a], chain.q[a]).sum() for a in (0, *path[:-1])] for path in paths])
    ratio = np.array([[min(1.0, chain.q[a, b] / chain.p[a, b]) for a, b in zip((0, *path), path)] for path in paths])
    lengths = np.full(len(paths), gamma)
    found = expected_accepted(overlap, lengths, [gamma], ratio)[0, :, 0]
    assert np.dot(weight, found) == pytest.approx(chain.expected(0, gamma))


def test_expected_length_without_ratios_is_the_sum_of_products() -> None:
    overlap = np.array([[0.5, 0.8, 0.1, 0.9], [1.0, 1.0, 0.3, 0.2]])
    result = expected_accepted(overlap, np.array([4, 2]), [0, 1, 2, 3, 9])
    assert result[:, 0, 0] == pytest.approx([0, 0.5, 0.9, 0.94, 0.94 + 0.5 * 0.8 * 0.1 * 0.9])
    assert result[:, 1, 0] == pytest.approx([0, 1, 2, 2, 2])
    assert result[:, 0, 3] == pytest.approx([0, 0.9, 0.9, 0.9, 0.9])
    with pytest.raises(ValueError, match="overlap"):
        expected_accepted(overlap + 1, np.array([4, 2]), [1])


def test_equal_overlaps_give_the_formula_of_leviathan() -> None:
    alpha, gamma = 0.7, 5
    overlap = np.full((1, 12), alpha)
    accepted = expected_accepted(overlap, np.array([12]), [gamma])[0, 0, 0]
    assert accepted + 1 == pytest.approx((1 - alpha ** (gamma + 1)) / (1 - alpha))


def test_a_draft_s_reach_may_be_given_in_tokens() -> None:
    rng, match, lengths = cases(40)
    stops = rng.random(match.shape) < 0.3
    ahead = np.full(match.shape, 99)
    for s, i in itertools.product(range(40), range(14)):
        ended = np.flatnonzero(stops[s, i : lengths[s]])
        ahead[s, i] = ended[0] + 1 if ended.size else 99
    by_place, by_count = (replay(match, lengths, GAMMAS, stops=kind) for kind in (stops, ahead))
    assert (by_place.drafted == by_count.drafted).all() and (by_place.gained == by_count.gained).all()
    with pytest.raises(ValueError, match=r"^stops: expected drafts of 1 or more tokens from each position$"):
        replay(match, lengths, [2], stops=np.zeros(match.shape, dtype=np.int64))


def test_a_cascade_whose_middle_model_is_always_right_is_two_plain_loops() -> None:
    """Off no path, the inner rounds of a draft are those of plain speculative decoding of the middle model's tokens."""
    _, agree, lengths = cases(60)
    match = np.ones_like(agree)
    found = replay_cascade(match, agreement_ahead(agree, 6), lengths, [1, 4, 6], 2)
    for s, (g, gamma) in itertools.product(range(60), enumerate([1, 4, 6])):
        at = 1
        for r, (drafted, accepted, gained) in enumerate(found.target.rounds(s, gamma)):
            assert (drafted, accepted) == (gamma, min(gamma, lengths[s] - at))
            place, passes, kept = 0, 0, 0
            while place < gamma:
                count = min(2, gamma - place - 1)
                right = 0
                while right < count and at + place + right < 14 and agree[s, at + place + right]:
                    right += 1
                passes, kept, place = passes + 1, kept + right, place + right + 1
            assert found.passes[r, s, g] == passes and found.accepted[r, s, g] == kept
            at += gained


def test_cascades_refuse_what_was_not_recorded() -> None:
    match, lengths = np.ones((2, 5), dtype=bool), np.array([5, 3])
    with pytest.raises(ValueError, match=r"agree: expected \[2, 5, 3\] or deeper"):
        replay_cascade(match, agreement_ahead(match, 2), lengths, [4], 2)
    with pytest.raises(ValueError, match="inner_gamma"):
        replay_cascade(match, agreement_ahead(match, 4), lengths, [4], -1)


def cascade_loop(match, agree, n, gamma, inner, limit, reach):
    """One sample with both verifications, token by token: (drafted, accepted, gained), (passes, drafted, accepted)."""
    rounds, at = [], 1
    while at < n:
        asked = gamma if limit is None else min(gamma, limit - at - 1)
        written = min(asked, reach[at]) if asked > 0 else 0
        passes, drafted, kept, depth = 0, 0, 0, 0
        while depth < written:
            width, right = min(inner, asked - depth - 1), 0
            while right < width and agree[at, depth + right]:
                right += 1
            passes, drafted, kept, depth = passes + 1, drafted + width, kept + right, depth + right + 1
        accepted = 0
        while accepted < written and at + accepted < n and match[at + accepted]:
            accepted += 1
        gained = min(accepted + 1, n - at)
        rounds.append(((written, accepted, gained), (passes, drafted, kept)))
        at += gained
    return rounds


@pytest.mark.parametrize("limit", [None, 14, 17])
@pytest.mark.parametrize("inner", [0, 2, 9])
def test_a_cascade_equals_both_loops(limit: int | None, inner: int) -> None:
    rng, match, lengths = cases(80)
    agree, reach = rng.random((80, 14, 5)) < 0.7, rng.integers(1, 9, (80, 14))
    found = replay_cascade(match, agree, lengths, [1, 3, 6], inner, limit=limit, reach=reach)
    for s, (g, gamma) in itertools.product(range(80), enumerate([1, 3, 6])):
        expected = cascade_loop(match[s], agree[s], lengths[s], gamma, inner, limit, reach[s])
        assert found.target.rounds(s, gamma) == [target for target, _ in expected]
        for name, nth in (("passes", 0), ("drafted", 1), ("accepted", 2)):
            assert getattr(found, name)[: len(expected), s, g].tolist() == [middle[nth] for _, middle in expected], name
            assert not getattr(found, name)[len(expected) :, s, g].any()


class Scripted:
    """A policy that asks for what its list says, and notes what it is told."""

    gamma = 4

    def __init__(self, wanted, answers):
        self.wanted, self.answers, self.told = iter(wanted), iter(answers), []

    def start(self):
        self.told.append("start")

    def pays(self, max_new_tokens):
        return next(self.answers)

    def count(self):
        return next(self.wanted)

    def stop(self, confidence):
        return confidence < 0.4

    def observe(self, drafted, accepted):
        self.told.append((drafted, accepted))


@pytest.mark.parametrize("given", [set(), {"confidence"}, {"ends"}, {"confidence", "ends"}])
def test_a_policy_is_asked_and_told_as_by_the_loop(given: set[str]) -> None:
    rng, match, lengths = cases(60)
    confidence = rng.random(match.shape) if "confidence" in given else np.ones(match.shape)
    ends = rng.random(match.shape) < (0.3 if "ends" in given else 0.0)
    wanted, pays = rng.integers(0, 5, 2000).tolist(), (rng.random(60) < 0.8).tolist()
    policy, limit = Scripted(wanted, pays), 15
    tables = {name: table for name, table in (("confidence", confidence), ("ends", ends)) if name in given}
    found, reads = replay_policy(match, lengths, policy, limit=limit, **tables)
    assert reads.tolist() == pays and found.gammas.tolist() == [4]
    asking, told = iter(wanted), list[Any]()
    for s, n in enumerate(lengths.tolist()):
        at, rounds = 1, []
        told += ["start"] * pays[s]
        while at < n:
            count = max(0, min(next(asking), limit - at - 1)) if pays[s] else 0
            inside = range(at, min(n, at + count))
            last = [place for place in inside if confidence[s, place] < 0.4 or ends[s, place]]
            drafted = last[0] - at + 1 if last else count
            accepted = [*match[s, at : min(n, at + drafted)], False].index(False)
            rounds.append((drafted, accepted, min(accepted + 1, n - at)))
            told += [(drafted, accepted)] * pays[s]
            at += rounds[-1][2]
        assert found.rounds(s, 4) == rounds
    assert policy.told == told


def test_answers_of_one_token_have_no_rounds() -> None:
    found = replay(np.ones((3, 4), dtype=bool), np.ones(3, dtype=np.int64), [0, 2])
    assert found.drafted.shape == (0, 3, 2) and found.drafted.dtype == found.gained.dtype == np.int16
    assert found.passes.tolist() == [[0, 0]] * 3


def test_what_would_be_read_as_something_else_is_refused() -> None:
    """Without the type checks that tests switch on: 1 and 0 for True and False were no match anywhere."""
    match, lengths, plainly = np.ones((1, 5), dtype=bool), np.array([5]), inspect.unwrap(replay)
    for call, line in (
        (lambda: plainly(match.astype(int), lengths, [2]), "match: expected a numpy array of bool, got int64"),
        (lambda: plainly(torch.ones(1, 5), lengths, [2]), "match: expected a numpy array of bool, got torch.float32"),
        (lambda: plainly(match, lengths / 1.0, [2]), "lengths: expected a numpy array of integers, got float64"),
        (lambda: plainly(match, lengths, [2.5]), "gammas: expected whole numbers, got float64"),
        (lambda: plainly(match, lengths, [2], free=1.5), "free: expected whole numbers, got float64"),
        (lambda: plainly(match, lengths, [2], skip=np.array([1])), "skip: expected bool, got int64"),
        (lambda: plainly(match, lengths, [2], stops=match * 1.0), "stops: expected bool or integers, got float64"),
    ):
        with pytest.raises(ValueError, match=re.escape(line)):
            call()
    assert plainly(match, lengths, [4], stops=np.full(match.shape, 2, dtype=np.uint8)).drafted.max() == 2


@pytest.mark.parametrize("length", [5, 40_000])
def test_numbers_of_more_than_16_bits_are_kept(length: int) -> None:
    match, lengths = np.ones((1, length), dtype=bool), np.array([length])
    found = replay(match, lengths, [2, 70_000])
    assert found.num_drafted.tolist() == [[2 * found.passes[0, 0], 70_000]]
    assert found.num_accepted[0, 1] == found.gained[:, 0, 1].sum() == length - 1
    assert Replay.from_rounds([found.rounds(0, 70_000)], 70_000).rounds(0, 70_000) == [(70_000, length - 1, length - 1)]
    cascade = replay_cascade(match[:, :5], np.ones((1, 5, 69_999), bool), np.array([5]), [70_000], 69_998)
    assert cascade.drafted[0, 0, 0] == cascade.accepted[0, 0, 0] == 69_998
