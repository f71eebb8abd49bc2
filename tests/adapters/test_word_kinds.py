"""Words are put together from pieces and told apart by what carries them."""

import pytest
import torch

from egptlib.adapters import rejections_by_kind, word_kinds


@pytest.mark.parametrize(
    ("pieces", "kinds"),
    [
        (["A", "Ġred", "Ġcar", ".", "</s>"], ["function", "colour", "shape", "punctuation", "end"]),
        (["ĠA", "Ġtw", "o", "-", "lane", "Ġstreet"], ["function", "count", "count", "count", "count", "shape"]),
        (["▁turn", "ing", "▁left", ",", "▁nearest"], ["motion", "motion", "motion", "punctuation", "phrasing"]),
        (["Ġat", "Ġn", "ight"], ["function", "brightness", "brightness"]),
    ],
)
def test_kinds(pieces: list[str], kinds: list[str]) -> None:
    assert word_kinds(pieces) == kinds


def test_rejections_are_counted() -> None:
    kinds = [["colour", "shape"], ["colour"]]
    rows = rejections_by_kind(kinds, [torch.tensor([False, True]), torch.tensor([True])])
    assert rows == [
        {"kind": "shape", "tokens": 1, "rejected": 0, "rate": 0.0, "share": 0.0},
        {"kind": "colour", "tokens": 2, "rejected": 1, "rate": 0.5, "share": 1.0},
    ]
    with pytest.raises(ValueError, match="2 kinds and 1 matches"):
        rejections_by_kind([["colour", "shape"]], [torch.tensor([True])])
