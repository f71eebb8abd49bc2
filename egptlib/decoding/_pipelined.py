"""Drafting that never waits for the verdict: the drafter writes on while the target verifies, as stages of a pipeline.

PipeSpec's order (McDanel et al. 2025) with two stages: on a machine of two cores there is no third. A stage may itself
be a cascade (`CascadeDrafter` in a `DrafterProcess`), whose two models then take turns on the second core.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from egptlib._clock import Recorder
from egptlib.decoding._drafters import ConcurrentDrafter, Draft
from egptlib.decoding._generation import Generation
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._round import OpenAnswer, Settings
from egptlib.models import Model

LOOK_EVERY = 3e-5  # seconds between two looks at the draft: a thirtieth of a small model's step


@torch.no_grad()
def pipelined_generate(
    target: Model,
    drafter: ConcurrentDrafter,
    scene: Any,
    question: str,
    *,
    gamma: int = 4,
    max_gamma: int = 16,
    min_confidence: float = 0.0,
    max_new_tokens: int = 50,
) -> Generation:
    """Answer greedily; the drafter runs beside the target from the first picture to the last token.

    It reads and drafts while the target reads, and goes on along its own draft while the target verifies. Where the
    target's answer leaves the draft, the drafter is sent back to the answer. The output is the target's own.

    Args:
        gamma: a verification waits for so many tokens, where the drafter has not written more in the meantime; 0 takes
            what is there.
        max_gamma: no more are verified at once.
        min_confidence: the wait ends, and the draft too, with the first token whose probability is below it.
        max_new_tokens: as in `speculative_generate`.

    Raises:
        ValueError: a limit below 1, or lengths that contradict each other.
    """
    if max_new_tokens < 1 or not 0 <= gamma <= max_gamma:
        raise ValueError(
            f"expected max_new_tokens of at least 1 and 0 <= gamma <= max_gamma, "
            f"found {max_new_tokens}, {gamma} and {max_gamma}"
        )
    recorder = Recorder()
    drafter.begin(scene, question, max_new_tokens)
    state = PromptReader(target, scene, "target").read(question, recorder)
    answer, base = OpenAnswer(target, state, Settings(max_new_tokens=max_new_tokens), recorder), 0
    while not answer.ended:
        draft = Draft()
        if answer.room:
            draft, base = _next_draft(drafter, answer.tokens, base, gamma, min_confidence, max_new_tokens)
            draft = draft.first(min(answer.room, max_gamma))
        if answer.tokens or draft.tokens:
            answer.judge(draft)
        else:
            answer.begin()
    drafter.take()
    return answer.close(drafter.events())


def _next_draft(
    drafter: ConcurrentDrafter, tokens: list[int], base: int, gamma: int, min_confidence: float, limit: int
) -> tuple[Draft, int]:
    """The draft after the answer, and where in the answer the drafter's present job began.

    Waits for `gamma` tokens; but not before the answer's first token, when the target has only just read its prompt.
    """
    while True:
        done = drafter.is_done()  # before looking: what comes between the two is seen at the next look
        made, own = drafter.made(), tokens[base:]
        if made.tokens[: len(own)] != own[: len(made.tokens)] or (done and len(made.tokens) < len(own)):
            drafter.follow(tokens, limit - len(tokens))
            base = len(tokens)
            continue
        ahead = Draft(made.tokens[len(own) :], made.confidence[len(own) :])
        unsure = next((i for i, confidence in enumerate(ahead.confidence) if confidence < min_confidence), None)
        if unsure is not None:
            return ahead.first(unsure + 1), base
        if done or not tokens or len(ahead.tokens) >= gamma:
            return ahead, base
        time.sleep(LOOK_EVERY)
