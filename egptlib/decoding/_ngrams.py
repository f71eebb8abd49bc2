"""Prompt look-up: the baseline that needs no second model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from egptlib._clock import Recorder
from egptlib.decoding._drafters import Draft, Stop, certain
from egptlib.decoding._sampling import Sampler
from egptlib.decoding._trees import TreeShape, branching


class NgramDrafter:
    """What followed the last few tokens where they stood before, in the question or the answer (Saxena 2023).

    The longest n-gram counts, the latest of its places; a tree branches where other places went on otherwise.

    Args:
        tokenizer: the target's, for the question. None: only the answer is looked into.
        max_ngram, min_ngram: lengths tried, longest first.
    """

    device = torch.device("cpu")
    name = "n-grams"

    def __init__(self, tokenizer: Any = None, max_ngram: int = 3, min_ngram: int = 1):
        if not 1 <= min_ngram <= max_ngram:
            raise ValueError(f"ngram: expected 1 <= min_ngram <= max_ngram, found {min_ngram} and {max_ngram}")
        self.tokenizer, self.max_ngram, self.min_ngram = tokenizer, max_ngram, min_ngram
        self._question: list[int] = []

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        if self.tokenizer is not None:
            self._question = list(self.tokenizer(question, add_special_tokens=False).input_ids)

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        return certain(next(self._continuations(answer, count), []), stop)

    def propose_tree(self, answer: Sequence[int], shape: TreeShape, depth: int, sampler: Sampler) -> Draft:
        nodes: dict[tuple[int, ...], int] = {}  # by the tokens on their path
        found = dict.fromkeys(map(tuple, self._continuations(answer, min(depth, shape.depth))))
        for path in islice(found, shape.width):
            for end in range(1, len(path) + 1):
                if len(nodes) < shape.size:
                    nodes.setdefault(path[:end], len(nodes))
        parents = [nodes.get(path[:-1], -1) for path in nodes]
        return Draft([path[-1] for path in nodes], [1.0] * len(nodes), parents=branching(parents))

    def _continuations(self, answer: Sequence[int], count: int) -> Iterator[list[int]]:
        """The `count` tokens behind each place of the longest n-gram that has one, the latest first."""
        tokens = [*self._question, *answer]
        text = "".join(map(chr, tokens))  # one character a token: str.rfind is the fastest search there is
        for n in range(min(self.max_ngram, len(answer)), self.min_ngram - 1, -1):
            place = text.rfind(text[-n:], 0, -1)
            if place < 0:
                continue
            while place >= 0:
                yield tokens[place + n : place + n + count]
                place = text.rfind(text[-n:], 0, place + n - 1)
            return
