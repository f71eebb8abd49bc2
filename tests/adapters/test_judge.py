"""Acceptance by replay against a decoder that is written out, majority predictors, and the recorded tokens."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from egptlib._likeliest import likeliest
from egptlib.adapters import Majority, acceptance_length, length_gain
from egptlib.adapters._judge import by_depth, judge_states, judge_tokens
from egptlib.hidden_states import HiddenStates, HiddenStateWriter
from egptlib.metrics import token_acceptance


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=4),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_replay_is_what_a_decoder_does(answers: list[list[int]], gamma: int, random) -> None:  # type: ignore[no-untyped-def]
    guesses = [[random.randint(0, 2) for _ in answer] for answer in answers]
    tokens = passes = 0
    for answer, guess in zip(answers, guesses):
        said = answer[:1]  # the prefill's token
        while len(said) < len(answer):
            draft = guess[len(said) : len(said) + gamma]
            kept: list[int] = []
            for token in draft:
                if token != answer[len(said) + len(kept)]:
                    break
                kept.append(token)
            bonus = answer[len(said) + len(kept) :][:1]
            said = said + kept + bonus
            tokens += len(kept) + len(bonus)
            passes += 1
    matches = [by_depth(torch.tensor(a) == torch.tensor(g), 6) for a, g in zip(answers, guesses)]
    assert acceptance_length(matches, gamma) == pytest.approx(tokens / passes if passes else 1.0)


def test_a_gain_has_the_interval_of_its_clusters() -> None:
    """Two kinds of sequence, one where the draft is always right: resampled by hand the gain is a mean of the two."""
    right, wrong = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    ours = judge_tokens("ours", [right, right, wrong, wrong])
    none = judge_tokens("none", [wrong] * 4)
    assert ours.answers == ((5, 1), (5, 1), (5, 5), (5, 5))
    gain = length_gain(ours.answers, none.answers, ["a", "a", "b", "b"])
    assert gain.value == pytest.approx(20 / 12 - 1)
    assert (gain.low, gain.high) == (0.0, 4.0)  # sequences alike, of the one or of the other kind
    assert length_gain(ours.answers, ours.answers, range(4)) == (0.0, 0.0, 0.0)


def test_majority_is_fitted_where_it_is_told_to_be() -> None:
    majority = Majority([[1, 2], [1, 3], [4, 3]], ["a", "a", "b"])
    assert majority.predict(3, "b") == [4, 3, -1]
    assert Majority([[1, 2], [1, 3], [4, 3]]).predict(3) == [1, 3, -1]


def test_majority_on_the_recorded_tokens(shared: Path) -> None:
    """0.2500 by the recorded script: positions 1 to 49, the folds it was written with."""
    results = json.loads((shared / "recorded/test_tokens_1q.json").read_text())["results"]
    rows = [result["vl_tokens"] for result in results]
    hits = total = 0
    for train, test in ((rows[:550], rows[550:]), (rows[550:], rows[:550])):
        majority = Majority(train).predict(50)
        hits += sum(row[i] == majority[i] for row in test for i in range(1, 50))
        total += 49 * len(test)
    expected = json.loads((shared / "recorded/expected_aggregates.json").read_text())["test_tokens_1q"]
    name = "per_position_majority_predictor_on_vl[1:]_2fold_contiguous"
    assert hits / total == pytest.approx(expected[name], abs=1e-12)
    assert round(hits / total, 4) == 0.2500


def test_the_recorded_two_percent_is_bos(shared: Path) -> None:
    results = json.loads((shared / "recorded/test_tokens_1q.json").read_text())["results"]
    ours = [result["egpt_tokens"] for result in results]
    theirs = [result["vl_tokens"] for result in results]
    without = token_acceptance(ours, theirs, bos_token_id=1)
    assert (without["positional_matches"], without["positions_compared"]) == (546, 37_533)
    assert without["accepted_prefix_histogram"] == {0: 792, 1: 8}
    kept = token_acceptance([[1, *row] for row in ours], [[1, *row] for row in theirs])
    assert kept["positional_matches"] == 546 + 800  # one match a sample that nobody predicted
    dropped = token_acceptance([[1, *row] for row in ours], [[1, *row] for row in theirs], bos_token_id=1)
    assert dropped == without


@pytest.mark.parametrize("length", [5, 40, 3000])
def test_the_likeliest_come_as_a_stable_sort_has_them(length: int) -> None:
    """Small whole numbers: most rows have equals among the largest, many more than are asked for."""
    values = torch.randint(4, (300, length), generator=torch.Generator().manual_seed(0)).bfloat16()
    for count in (1, 2, 5):
        found, order = likeliest(values, count), values.sort(dim=-1, descending=True, stable=True).indices
        assert torch.equal(found[:, 0], values.argmax(dim=-1))
        assert torch.equal(values.gather(-1, found), values.gather(-1, order[:, :count]))
        assert all(len(set(row)) == count for row in found.tolist())


def test_the_targets_own_states_are_always_right(tmp_path: Path) -> None:
    """With bfloat16's many equal logits too: the first of five is the token that decoding takes."""
    torch.manual_seed(0)
    weights, rows = torch.randn(500, 16).bfloat16(), torch.randn(200, 16).bfloat16()
    ids = F.linear(rows, weights).argmax(dim=-1)
    with HiddenStateWriter(tmp_path) as writer:
        writer.add(rows, rows, ids, metadata={"scene": "a", "question": "?"})
    found = judge_states("own", lambda batch: [(0, batch.target_hidden)], HiddenStates.open(tmp_path), weights, (5,))
    assert found.top1 == found.top5 == 1.0
