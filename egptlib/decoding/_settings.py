"""What every way of speculative decoding is told alike."""

from __future__ import annotations

from typing import TypedDict

import torch

from egptlib.decoding._lengths import DraftLength, FixedLength
from egptlib.decoding._rules import Lossless, Rule
from egptlib.decoding._sampling import Sampler, Sampling


class Options(TypedDict, total=False):
    """Given by name; what is left out is as in `speculative_generate`, which explains them."""

    gamma: int | DraftLength
    max_new_tokens: int
    sampling: Sampling | None
    generator: torch.Generator | None
    rule: Rule | None


class Settings:
    """`Options`, checked and filled up."""

    def __init__(
        self,
        gamma: int | DraftLength = 5,
        max_new_tokens: int = 50,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        rule: Rule | None = None,
    ):
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: expected at least 1, found {max_new_tokens}")
        self.length: DraftLength = FixedLength(gamma) if isinstance(gamma, int) else gamma
        self.max_new_tokens, self.sampler, self.rule = max_new_tokens, Sampler(sampling, generator), rule or Lossless()
