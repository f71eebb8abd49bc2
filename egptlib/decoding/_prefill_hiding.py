"""Prefill hiding: the drafter reads and drafts while the target reads, then all it drafted is verified at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Unpack, runtime_checkable

from egptlib._clock import Event, Recorder
from egptlib.decoding._drafters import Draft, Drafter, reads_prompt, source_layers
from egptlib.decoding._generation import Generation
from egptlib.decoding._loop import speculative_decode
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._round import Options
from egptlib.models import Model


@runtime_checkable
class ConcurrentDrafter(Drafter, Protocol):
    """A drafter that works beside its caller: `DrafterProcess`, `DrafterThread`."""

    def begin(self, scene: Any, question: str, limit: int) -> None:
        """Start to read a prompt and to draft up to `limit` tokens; return at once."""
        ...

    def follow(self, answer: Sequence[int], limit: int) -> None:
        """Stop, and draft up to `limit` tokens after `answer` instead; return at once."""
        ...

    def made(self) -> Draft:
        """What was drafted since `begin` or `follow`, which goes on."""
        ...

    def is_done(self) -> bool:
        """Whether that has ended by itself."""
        ...

    def take(self) -> Draft:
        """Stop, and return what was drafted so far."""
        ...

    def wait(self) -> None:
        """Wait until the job has ended by itself."""
        ...

    def events(self) -> list[Event]:
        """What was done since `begin`."""
        ...


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
