"""What replay of trees needs: the target's answers, and all that a drafter would have grown behind each token."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from egptlib._clock import Recorder
from egptlib.decoding._drafters import Draft, Drafter, reads_prompt, source_layers
from egptlib.decoding._loop import as_drafter, check_trees_known
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._round import OpenAnswer, Settings
from egptlib.decoding._trees import TreeDrafter, TreeShape
from egptlib.metrics import Branches
from egptlib.models import Model


@dataclass(frozen=True)
class RecordedTrees:
    """The target's greedy answers, and the branches behind each token: for `traces.trace_from_trees`.

    Attributes:
        token_ids: one answer a prompt, its end token included where it was reached.
        branches: of each answer and position, what was grown behind the tokens before it; none at position 0, which
            the prefill gives.
        depth, width, min_confidence: that they were grown with.
    """

    token_ids: list[list[int]]
    branches: list[list[Branches]]
    depth: int
    width: int
    min_confidence: float


@torch.no_grad()
def record_trees(
    target: Model,
    drafter: Drafter | Model,
    prompts: Iterable[tuple[Any, str]],
    depth: int,
    width: int,
    min_confidence: float = 0.0,
    max_new_tokens: int = 50,
) -> RecordedTrees:
    """Answer each prompt plainly with the target, and grow a tree behind every token of it.

    A replay of what is recorded is exact for every size, up to this depth and from this confidence on, but of this
    width alone: where fewer tokens of a level are drafted on, others lie behind them.

    Raises:
        ValueError: a depth or width below 1, or no probability; a drafter or a target that knows chains alone.
    """
    drafter, shape = as_drafter(drafter, target), TreeShape(sys.maxsize, depth, width, min_confidence)
    settings = Settings(gamma=shape, max_new_tokens=max_new_tokens)
    check_trees_known(target, drafter, settings.rule)
    assert isinstance(drafter, TreeDrafter)
    answers, branches = [], []
    for scene, question in prompts:
        recorder = Recorder()
        reader = PromptReader(target, scene, "target")
        state = reader.read(question, recorder, source_layers(drafter), reads_prompt(drafter))
        drafter.start(scene, question, recorder)
        answer, grown = OpenAnswer(target, state, settings, recorder, drafter), [Branches([], [], [])]
        answer.begin()
        while not answer.ended:
            draft = drafter.propose_tree(answer.tokens, shape, depth, settings.sampler)
            parents = list(range(-1, len(draft.tokens) - 1)) if draft.parents is None else draft.parents
            grown.append(Branches(draft.tokens, parents, draft.confidence))
            answer.judge(Draft())
        answers.append(answer.tokens)
        branches.append(grown)
    return RecordedTrees(answers, branches, depth, width, min_confidence)
