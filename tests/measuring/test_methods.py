"""Methods are compared prompt by prompt with the first one; rounds tell what became of every draft token."""

from dataclasses import replace
from typing import Any

import pytest

from egptlib.decoding import Generation, SceneSession, SequenceDrafter, round_tokens, speculative_generate
from egptlib.measuring import MethodRuns, compare_speed, run_methods, run_sessions
from tests.decoding.conftest import make_model


def test_speed_is_the_ratio_of_sums() -> None:
    base = MethodRuns([1.0, 3.0], [[1], [2, 3]], [True, True])
    speed = compare_speed(MethodRuns([2.0, 0.5], [[1], [2, 4]], [True, False]), base)
    assert speed.ratio_of_sums == 4 / 2.5 and speed.mean_of_ratios == 3.25
    assert speed.slower == 0.5 and speed.identical == 0.5 and speed.tokens == 3
    assert 0.5 <= speed.low <= speed.ratio_of_sums <= speed.high <= 6


def test_groups_are_resampled_whole() -> None:
    """Two groups whose own ratios are 1 and 3: no draw lies outside, and prompts of a group never part."""
    base = MethodRuns([1.0, 2.0, 3.0, 6.0], [[1]] * 4, [True] * 4)
    ours = MethodRuns([2.0, 1.0, 2.0, 1.0], [[1]] * 4, [True] * 4)
    speed = compare_speed(ours, base, ["a", "a", "b", "b"])
    assert speed.ratio_of_sums == 2 and (speed.low, speed.high) == (1, 3)
    alone = compare_speed(ours, base, list("abcd"))
    assert (alone.low, alone.high) == (compare_speed(ours, base).low, compare_speed(ours, base).high)


def test_an_odd_repeat_is_not_identical() -> None:
    answers = iter([[1], [1], [9], [1], [1], [1]])  # warm-up, then prompt by prompt two repeats; the first one odd
    runs = run_methods(
        {"own": lambda scene, question: [1], "odd": lambda scene, question: next(answers)},
        [([1], "a"), ([2], "b")],
        repeats=2,
        warm_ups=2,
    )
    assert runs["own"].identical == [True, True] and runs["odd"].identical == [False, True]
    assert runs["odd"].token_ids == [[1], [1]] and len(runs["odd"].seconds) == 2


@pytest.mark.parametrize("methods, repeats", [({}, 1), ({"a": lambda scene, question: [1]}, 0)])
def test_nothing_to_run(methods: Any, repeats: int) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        run_methods(methods, [([1], "a")], repeats=repeats)


@pytest.mark.parametrize("flip", [None, 0, 3, 6])
def test_round_tokens_join_to_the_answer(flip: int | None) -> None:
    target = make_model(0)
    own = target.decode_greedy(target.start([1, 5, 7], ""), 12)[0].tolist()
    draft = [token + 1 if i == flip else token for i, token in enumerate(own)]
    generation = speculative_generate(target, SequenceDrafter(draft), [1, 5, 7], "", gamma=4, max_new_tokens=12)
    rounds = round_tokens(generation)
    assert [*own[:1], *(t for r in rounds for t in [*r.accepted, *r.own])] == generation.token_ids.tolist() == own
    for r, counted in zip(rounds, generation.rounds, strict=True):
        assert len(r.accepted) == counted.accepted and len(r.accepted) + len(r.rejected) == counted.drafted
        assert set(r.accepted + r.rejected) <= set(draft)


def test_round_tokens_need_the_drafts() -> None:
    target = make_model(0)
    own = target.decode_greedy(target.start([1, 5, 7], ""), 12)[0].tolist()
    generation: Generation = speculative_generate(
        target, SequenceDrafter(own), [1, 5, 7], "", gamma=4, max_new_tokens=12
    )
    with pytest.raises(ValueError, match="events"):
        round_tokens(replace(generation, events=[]))


def test_sessions_share_a_scenes_time_and_are_compared() -> None:
    target, first, second = make_model(0), [1, 5, 7], [4, 4]
    prompts = [(first, "3"), (first, "6"), (second, "3")]
    base = run_methods(
        {"own": lambda *prompt: target.decode_greedy(target.start(*prompt), 6)[0].tolist()}, prompts, repeats=1
    )["own"]
    seen = []

    def answer(scene: Any, questions: Any) -> Any:
        seen.append((scene, list(questions)))
        return SceneSession(target, SequenceDrafter(), scene).ask_all(questions, max_new_tokens=6)

    runs = run_sessions(answer, prompts, base, repeats=2, warm_ups=1)
    assert seen == [(first, ["3", "6"])] * 3 + [(second, ["3"])] * 2
    assert runs.identical == [True] * 3 and runs.token_ids == base.token_ids
    assert runs.seconds[0] == runs.seconds[1] > 0
    base.token_ids[1] = [9]
    assert run_sessions(answer, prompts, base, repeats=1, warm_ups=0).identical == [True, False, True]


def test_slower_is_any_time_longer() -> None:
    base = MethodRuns([1.0, 1.0, 1.0, 1.0], [[1]] * 4, [True] * 4)
    assert compare_speed(replace(base, seconds=[1.01, 1.0, 0.99, 3.0]), base).slower == 0.5
