"""Token acceptance: equal next tokens. Exact, where the cosine of `_acceptance.py` is a proxy."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import index
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from egptlib._whole import whole_numbers
from egptlib.metrics._acceptance import as_bool

TokenLists = Sequence[Sequence[int]] | Sequence[Tensor] | Sequence[str] | Tensor


def token_acceptance(
    drafter_ids: TokenLists,
    target_ids: TokenLists,
    bos_token_id: int | None = None,
    eos_token_id: int | Iterable[int] | None = None,
    tokenize: Callable[[str], Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Compare the drafter's tokens with the target's, position by position, and count the accepted prefix.

    Works on two free answers (how the earlier runs recorded them) and on one trace along the target's path,
    where `drafter_ids` is the drafter's top-1 at each position; only there is the accepted prefix what greedy
    speculative decoding keeps in its first verification. A pair is compared over its shorter list.

    Args:
        drafter_ids: one list of token ids per sample, lengths may differ; or an integer tensor
            [sample, position].
        target_ids: the target's, as many samples.
        bos_token_id: leading tokens with this id are dropped on both sides: BOS is no prediction, and
            counting it turned 1.5 % into the 3.4 % of the earlier five-stage table.
        eos_token_id: the answer ends with its first EOS; what follows (padding) is dropped, the EOS itself is
            compared like any token. Leave it out along the target's path: there the drafter's EOS at one
            position does not end the trace.
        tokenize: the target's tokenizer, for models whose vocabularies differ: a sample may then be a text, and
            both models' texts are compared in the target's tokens.

    Returns:
        `num_samples, positional_matches, positions_compared, positional_match_rate` (0.0 when nothing is
        compared), `accepted_prefix_{mean,median,max}` and `accepted_prefix_histogram` (number of samples by
        prefix length, shortest first, only the lengths that occur).

    Raises:
        ValueError: the numbers of samples differ, there is no sample, one is no list of ids, or a text without
            `tokenize`.

    Example:
        >>> table = token_acceptance([[5, 6, 9, 2]], [[5, 6, 7, 2]])
        >>> table["positional_match_rate"], table["accepted_prefix_mean"]
        (0.75, 2.0)
    """
    if len(drafter_ids) != len(target_ids):
        raise ValueError(f"drafter_ids has {len(drafter_ids)} samples, target_ids {len(target_ids)}")
    if not len(drafter_ids):
        raise ValueError("drafter_ids and target_ids hold no sample: there is nothing to measure")
    ends = set() if eos_token_id is None else _ends(eos_token_id)
    matches = compared = 0
    prefixes = []
    for drafter_row, target_row in zip(drafter_ids, target_ids):
        drafter, target = (_answer(_ids(row, tokenize), bos_token_id, ends) for row in (drafter_row, target_row))
        equal = [d == t for d, t in zip(drafter, target)]
        matches += sum(equal)
        compared += len(equal)
        prefixes.append(equal.index(False) if False in equal else len(equal))
    counts = Counter(prefixes)
    return {
        "num_samples": len(prefixes),
        "positional_matches": matches,
        "positions_compared": compared,
        "positional_match_rate": matches / compared if compared else 0.0,
        "accepted_prefix_mean": sum(prefixes) / len(prefixes),
        "accepted_prefix_median": sorted(prefixes)[(len(prefixes) - 1) // 2],
        "accepted_prefix_max": max(prefixes),
        "accepted_prefix_histogram": {k: counts[k] for k in sorted(counts)},
    }


def exact_against_proxy(
    cosine: Float[Tensor, "sample position"],
    match: Bool[Tensor, "sample position"],
    mask: Bool[Tensor, "sample position"],
    thresholds: Sequence[float] = (0.80, 0.85, 0.90, 0.95),
) -> list[dict[str, float | int | None]]:
    """Return one row per threshold: what the cosine accepts against what the token match accepts.

    Args:
        cosine: from `masked_cosine` or `AcceptanceAccumulator.cosines`.
        match: whether the drafter's top-1 is the target's token.
        mask: the valid positions.

    Returns:
        Rows of `threshold, accept_rate` (lossy), `match_rate` (exact, the same in each row),
        `match_given_accept` and `match_given_reject` (None where there is no such position), `num_accepted`.

    Raises:
        ValueError: no valid position, or other values than 0 and 1 (or booleans) in `match` or `mask`.
    """
    match, mask = as_bool(match, "match"), as_bool(mask, "mask")
    if not mask.any():
        raise ValueError("mask has no valid position: there is nothing to measure")
    values, equal = cosine[mask], match[mask].double()
    rows: list[dict[str, float | int | None]] = []
    for threshold in thresholds:
        accepted = values > threshold
        rows.append(
            {
                "threshold": threshold,
                "accept_rate": accepted.double().mean().item(),
                "match_rate": equal.mean().item(),
                "match_given_accept": equal[accepted].mean().item() if accepted.any() else None,
                "match_given_reject": equal[~accepted].mean().item() if not accepted.all() else None,
                "num_accepted": int(accepted.sum()),
            }
        )
    return rows


def _ids(row: Any, tokenize: Callable[[str], Sequence[int]] | None) -> list[int]:
    if isinstance(row, str):
        if tokenize is None:
            raise ValueError("a sample is a text: expected token ids, or the target's tokenizer as tokenize")
        row = tokenize(row)
    return whole_numbers(row, "a sample")


def _ends(ids: Any) -> set[int]:
    try:
        return {index(ids)}
    except TypeError:
        return set(whole_numbers(ids, "eos_token_id"))


def _answer(tokens: list[int], bos_token_id: int | None, ends: set[int]) -> list[int]:
    """Return the ids without leading BOS, up to and including the first EOS."""
    start = 0
    while start < len(tokens) and tokens[start] == bos_token_id:
        start += 1
    for i, token in enumerate(tokens[start:], start):
        if token in ends:
            return tokens[start : i + 1]
    return tokens[start:]
