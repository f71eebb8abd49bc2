"""Token acceptance against the recorded outputs of the 7B models and against a plain loop."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st

from egptlib.metrics import exact_against_proxy, token_acceptance


def recorded(shared: Path, name: str) -> tuple[list[dict], dict]:
    folder = shared / "recorded"
    aggregates = json.loads((folder / "expected_aggregates.json").read_text())
    return json.loads((folder / name).read_text())["results"], aggregates


def test_recorded_tokens_of_the_7b_pair(shared: Path) -> None:
    results, aggregates = recorded(shared, "test_tokens_1q.json")
    expected = aggregates["test_tokens_1q"]
    figures = token_acceptance(
        [r["egpt_tokens"] for r in results], [r["vl_tokens"] for r in results], bos_token_id=1, eos_token_id=2
    )
    assert figures["positional_matches"] == expected["positional_matches"] == 546
    assert figures["positions_compared"] == expected["positions_compared"] == 37_533
    assert figures["positional_match_rate"] == pytest.approx(expected["positional_match_rate"], rel=1e-12)
    histogram = {str(k): v for k, v in figures["accepted_prefix_histogram"].items()}
    assert histogram == expected["accepted_prefix_histogram"] == {"0": 792, "1": 8}


def test_recorded_five_stage_acceptance_without_its_bos(shared: Path) -> None:
    """The recorded rate counts BOS as a match and divides by the target's length; take both back."""
    results, _ = recorded(shared, "five_stage_seq2s_20260127_204018.json")
    for r in results:
        drafter, target = r["eventgpt"]["output_tokens"], r["videollava"]["output_tokens"]
        figures = token_acceptance([[1, *drafter]], [[1, *target]], bos_token_id=1)
        assert figures["positional_matches"] == token_acceptance([drafter], [target])["positional_matches"]
        with_bos = token_acceptance([[1, *drafter]], [[1, *target]])
        assert with_bos["positional_matches"] == figures["positional_matches"] + 1
        # The earlier script re-encoded the texts, whose EOS is gone.
        texts = [[t for t in ids if t != 2] for ids in (drafter, target)]
        matched = token_acceptance([[1, *texts[0]]], [[1, *texts[1]]])["positional_matches"]
        assert matched == r["acceptance"]["matched_tokens"]


def test_recorded_five_stage_aggregates(shared: Path) -> None:
    """Without BOS the recorded 3.4 % is 1.4 %, and in half of the samples BOS is the only match."""
    results, aggregates = recorded(shared, "five_stage_seq2s_20260127_204018.json")
    expected = aggregates["five_stage_seq2s_20260127_204018.json"]
    models = ([r[name]["output_tokens"] for r in results] for name in ("eventgpt", "videollava"))
    drafter, target = ([[token for token in ids if token not in (1, 2)] for ids in model] for model in models)
    figures = token_acceptance(drafter, target)
    rate = figures["positional_matches"] / sum(map(len, target))
    assert rate == pytest.approx(expected["acceptance_without_BOS"], rel=1e-12)
    assert figures["accepted_prefix_mean"] == pytest.approx(expected["accepted_prefix_mean"])
    with_bos = [token_acceptance([[1, *d]], [[1, *t]])["positional_matches"] for d, t in zip(drafter, target)]
    shares = [matches / (len(ids) + 1) for matches, ids in zip(with_bos, target)]
    assert sum(shares) / len(shares) == pytest.approx(expected["acceptance_rate_recorded"], rel=1e-12)
    assert with_bos.count(1) / len(with_bos) == expected["fraction_where_only_BOS_matched"]
    only_bos = [share for share, matches in zip(shares, with_bos) if matches == 1]
    assert {round(share, 3) for share in only_bos} == {0.02}  # the recorded "2.0 %" is 1 of 51: BOS


def test_texts_are_compared_in_the_targets_tokens(shared: Path) -> None:
    """The recorded texts, encoded by the models' tokenizer, give what the recorded ids give; EOS is no text."""
    results, _ = recorded(shared, "test_tokens_1q.json")
    encode = sentencepiece.SentencePieceProcessor(str(shared / "golden" / "llama_tokenizer.model")).encode
    found = token_acceptance(
        [r["egpt_text"] for r in results], [r["vl_text"] for r in results], bos_token_id=1, tokenize=encode
    )
    drafter, target = ([[t for t in r[name] if t != 2] for r in results] for name in ("egpt_tokens", "vl_tokens"))
    assert found == token_acceptance(drafter, target)
    assert found["positional_matches"] == 546
    with pytest.raises(ValueError, match="a sample is a text"):
        token_acceptance(["a"], ["a"])


ids = st.lists(st.lists(st.integers(1, 5), max_size=8), min_size=1, max_size=6)


@given(ids, st.integers(0, 1000))
def test_equals_the_plain_loop(target: list[list[int]], seed: int) -> None:
    """BOS is 1 and EOS is 2: drop every leading 1, stop after the first 2."""
    generator = torch.Generator().manual_seed(seed)
    drafter = [
        [int(torch.randint(1, 6, (), generator=generator)) if i % 3 == 2 else t for i, t in enumerate(row)]
        for row in target
    ]
    matches = compared = 0
    prefixes = []
    for pair in zip(drafter, target):
        cut = []
        for row in pair:
            while row and row[0] == 1:
                row = row[1:]
            cut.append(row[: row.index(2) + 1] if 2 in row else row)
        prefix, running = 0, True
        for d, t in zip(*cut):
            compared += 1
            matches += d == t
            running = running and d == t
            prefix += running
        prefixes.append(prefix)
    figures = token_acceptance(drafter, target, bos_token_id=1, eos_token_id=[2])
    assert figures["positional_matches"] == matches
    assert figures["positions_compared"] == compared
    assert figures["accepted_prefix_mean"] == pytest.approx(sum(prefixes) / len(prefixes))
    assert figures["accepted_prefix_histogram"] == {k: prefixes.count(k) for k in sorted(set(prefixes))}
    assert figures["positional_match_rate"] == (matches / compared if compared else 0.0)


def test_tensors_and_lists_give_the_same() -> None:
    drafter = torch.tensor([[5, 6, 7, 2, 0], [5, 9, 2, 0, 0]])
    target = torch.tensor([[5, 6, 8, 2, 0], [9, 9, 9, 9, 2]])
    figures = token_acceptance(drafter, target, eos_token_id=2)
    assert figures == token_acceptance(drafter.tolist(), target.tolist(), eos_token_id=2)
    assert figures["positions_compared"] == 4 + 3  # the padding after EOS is not compared
    assert figures["positional_matches"] == 3 + 1
    assert figures["accepted_prefix_histogram"] == {0: 1, 2: 1}


def test_misuse_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="drafter_ids has 1 samples, target_ids 2"):
        token_acceptance([[1]], [[1], [2]])
    with pytest.raises(ValueError, match="no sample"):
        token_acceptance([], [])


def test_exact_against_proxy() -> None:
    cosine = torch.tensor([[0.99, 0.85, 0.2, 0.97], [0.91, 0.1, 0.99, 0.99]])
    match = torch.tensor([[True, False, False, False], [True, True, True, True]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    low, high = exact_against_proxy(cosine, match, mask, thresholds=[0.9, 0.995])
    assert low["num_accepted"] == 3
    assert low["accept_rate"] == pytest.approx(3 / 6)
    assert low["match_rate"] == high["match_rate"] == pytest.approx(3 / 6)
    assert low["match_given_accept"] == pytest.approx(2 / 3)
    assert low["match_given_reject"] == pytest.approx(1 / 3)
    assert high["num_accepted"] == 0
    assert high["match_given_accept"] is None
    with pytest.raises(ValueError, match="no valid position"):
        exact_against_proxy(cosine, match, torch.zeros_like(mask))


def test_ids_come_as_lists_arrays_or_tensors_of_any_kind() -> None:
    """An end token that came as a tensor was never found, and one numbered 0 in an array was none."""
    compare: Any = inspect.unwrap(token_acceptance)
    expected = compare([[5, 0, 9]], [[5, 0, 8]], eos_token_id=0)
    assert expected["positions_compared"] == expected["positional_matches"] == 2
    for end in (np.int64(0), torch.tensor(0), torch.tensor([0]), np.array([0]), [np.int64(0)], {0}, (7, 0)):
        for row in ([5, 0, 9], np.array([5, 0, 9]), torch.tensor([5, 0, 9]), list(torch.tensor([5, 0, 9]))):
            assert compare([row], [[5, 0, 8]], eos_token_id=end) == expected
    for wrong in ([[5.5]], [5, 6], torch.tensor([5, 6]), torch.zeros(1, 2, 3), [["5"]]):
        with pytest.raises(ValueError, match="a sample: expected a list of whole numbers"):
            compare(wrong, wrong)
    with pytest.raises(ValueError, match="eos_token_id: expected a list of whole numbers"):
        compare([[5]], [[5]], eos_token_id="2")


def test_a_mask_of_numbers_is_a_mask() -> None:
    cosine, match = torch.tensor([[0.9, 0.7], [0.95, 0.2]]), torch.tensor([[1, 0], [1, 1]])
    mask = torch.tensor([[1, 1], [1, 0]])  # as rows to be taken it would be one, too
    compare: Any = inspect.unwrap(exact_against_proxy)
    assert compare(cosine, match, mask, [0.8]) == exact_against_proxy(cosine, match.bool(), mask.bool(), [0.8])
    with pytest.raises(ValueError, match="match: expected only 0 and 1"):
        compare(cosine, 2 * match, mask)
