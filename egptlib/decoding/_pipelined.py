"""Drafting that never waits for the verdict: the drafter writes on while the target verifies, as stages of a pipeline.

PipeSpec's order (McDanel et al. 2025) with two stages: on a machine of two cores there is no third. A stage may itself
be a cascade (`CascadeDrafter` in a `DrafterProcess`), whose two models then take turns on the second core.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from egptlib.decoding._drafters import Draft
from egptlib.decoding._generation import Generation, Recorder, Round
from egptlib.decoding._loop import keep, verify
from egptlib.decoding._prefill_hiding import ConcurrentDrafter
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._rules import Lossless
from egptlib.decoding._sampling import Sampler
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
    recorder, rule, sampler = Recorder(), Lossless(), Sampler()
    drafter.begin(scene, question, max_new_tokens)
    state = PromptReader(target, scene, "target").read(question, recorder)
    prompt_length, base, tokens, rounds = state.length, 0, list[int](), list[Round]()
    while len(tokens) < max_new_tokens and not (tokens and tokens[-1] in target.eos_token_ids):
        room = max_new_tokens - len(tokens) - 1  # the bonus token needs a place too
        draft = Draft()
        if room:
            draft, base = _next_draft(drafter, tokens, base, gamma, min_confidence, max_new_tokens)
            draft = draft.first(min(room, max_gamma))
        if not tokens and not draft.tokens:
            tokens.append(sampler.choose(state.logits[0]))  # the prefill has said it already
            continue
        with recorder("target", "verify" if draft.tokens else "step", target.device) as info:
            verdict, _, _ = verify(target, state, tokens[-1:], draft, rule, sampler)
            gained, accepted = keep(verdict, draft, target.eos_token_ids)
            free = not tokens
            tokens += gained
            if state.length > prompt_length + len(tokens) - 1:
                target.rollback(state, prompt_length + len(tokens) - 1)
            info.update(drafted=len(draft.tokens), accepted=accepted)
            if free:
                info["free"] = len(draft.tokens)
        rounds.append(Round(len(draft.tokens), accepted, len(gained)))
    drafter.take()
    events = sorted([*recorder.events, *drafter.events()], key=lambda event: event.end)
    return Generation(torch.tensor(tokens), target.decode_text(tokens), rounds, events)


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
