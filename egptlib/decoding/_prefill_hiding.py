"""Prefill hiding: the drafter reads and drafts while the target reads, then all it drafted is verified at once."""

from __future__ import annotations

from typing import Any, Unpack

from egptlib._clock import Recorder
from egptlib.decoding._drafters import ConcurrentDrafter, Drafter, reads_prompt, source_layers
from egptlib.decoding._generation import Generation
from egptlib.decoding._loop import speculative_decode
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._round import Options
from egptlib.models import Model


def hidden_prefill_generate(
    target: Model,
    drafter: ConcurrentDrafter,
    scene: Any,
    question: str,
    *,
    overlap: bool = True,
    max_free_tokens: int = 32,
    then: Drafter | None = None,
    reader: PromptReader | None = None,
    **options: Unpack[Options],
) -> Generation:
    """Answer a question; what the drafter writes until the target is ready costs no time of its own.

    The drafter's preprocessing, vision, prefill and drafting run while the target's do, and are stopped the moment
    the target has read its prompt. One verification covers all of the free draft; the loop goes on from there.

    Args:
        overlap: False runs the same in sequence: first the drafter to `max_free_tokens`, then the target.
        max_free_tokens: no more than this is drafted ahead.
        then: drafts after the free tokens instead, e.g. a head that builds on the target's states.
        reader, options: as in `speculative_generate`; gamma counts from the second verification on. Free tokens are
            drafted greedily, under sampling too.

    Returns:
        Its events hold both lanes, stamped by one clock; the first "verify" has `free` in its info.
    """
    recorder = Recorder()
    drafter.begin(scene, question, max_free_tokens)
    if not overlap:
        drafter.wait()
    follower = then or drafter
    reader = reader or PromptReader(target, scene, "target")
    state = reader.read(question, recorder, source_layers(follower), reads_prompt(follower))
    free = drafter.take()
    if then is not None:
        then.start(scene, question, recorder)
    generation = speculative_decode(target, state, follower, recorder=recorder, draft=free, **options)
    recorder.events.extend(drafter.events())
    recorder.events.sort(key=lambda event: event.end)
    return generation
