"""Drafters: whatever can propose the next tokens of an answer. All share one protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from egptlib._clock import Event, Recorder
from egptlib._whole import whole_numbers
from egptlib.decoding._sampling import Sampler

Stop = Callable[[float], bool]
"""Called after each draft token with the drafter's probability of it; True ends the draft (the token stays in it)."""


@dataclass
class Draft:
    """A proposal of n tokens, ids of the target's vocabulary.

    Attributes:
        tokens: the n ids.
        confidence: the drafter's probability (before temperature) of each; 1.0 where left out.
        probabilities: [n, V], what each token was drawn from, V the target's width. None: chosen with certainty.
        logits: [n, V] of the drafter, -inf where it has no such token; None where it has no logits.
        hidden: [n, H], states that stand for the target's, where the drafter makes some.
        parents: of a tree (`TreeShape`): the node that each token follows, -1 for the answer, parents first;
            `confidence` is then joint with all ancestors', and siblings were drawn without replacement. None: a chain.
    """

    tokens: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    probabilities: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None
    parents: list[int] | None = None

    def __post_init__(self) -> None:
        self.tokens = whole_numbers(self.tokens, "draft")
        self.confidence = list(() if self.confidence is None else self.confidence) or [1.0] * len(self.tokens)
        if self.parents is not None:
            self.parents = whole_numbers(self.parents, "draft: parents")
        for name in ("confidence", "probabilities", "logits", "hidden", "parents"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.tokens):
                raise ValueError(f"draft: {name} has {len(values)} rows for {len(self.tokens)} tokens")
        if any(not -1 <= parent < node for node, parent in enumerate(self.parents or ())):
            raise ValueError(f"draft: expected parents before their children, found {self.parents}")

    def first(self, count: int) -> Draft:
        """The draft cut to its first `count` tokens; a tree as it is."""
        if self.parents is not None or count >= len(self.tokens):
            return self
        tensors = (None if x is None else x[:count] for x in (self.probabilities, self.logits, self.hidden))
        probabilities, logits, hidden = tensors
        return Draft(self.tokens[:count], self.confidence[:count], probabilities, logits, hidden)


class Drafter(Protocol):
    """Proposes tokens.

    A drafter finds out by itself what to forget: `propose` gets the whole answer so far, and the drafter rolls its
    cache back to where its own past and the answer part. So nobody has to tell it what was accepted.

    Attributes:
        name: how reports call it.
        device: where it runs.
    """

    name: str
    device: torch.device

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        """Read the prompt, whatever was there before; stages are recorded in the lane "drafter"."""
        ...

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        """Propose up to `count` tokens (fewer or none are fine) that follow `answer`, ids of the target."""
        ...


@runtime_checkable
class WatchingDrafter(Protocol):
    """A drafter that builds on the target's states: the loop hands them over.

    Attributes:
        source_layers: numbers of the target's decoder layers (from 1 on) after which it wants the states as well.
    """

    source_layers: tuple[int, ...]

    def watch(self, rows: Tensor, layers: Tensor) -> None:
        """Take the states that gave the answer's next k tokens.

        Args:
            rows: the target's last hidden states [k, H].
            layers: those after the source layers and before the final norm, [k, layers, H]; empty where none was
                asked for.
        """
        ...


def source_layers(drafter: object) -> tuple[int, ...]:
    """The target's layers that a drafter wants the states of; none where it does not watch."""
    return drafter.source_layers if isinstance(drafter, WatchingDrafter) else ()


@runtime_checkable
class PromptDrafter(WatchingDrafter, Protocol):
    """A drafter that may build on the target's states along the prompt too.

    Attributes:
        reads_prompt: whether it does.
    """

    @property
    def reads_prompt(self) -> bool: ...

    def watch_prompt(self, ids: Tensor, layers: Tensor) -> None:
        """Take a prompt: its ids [P], of pictures the placeholder's, and the states [P, layers, H] behind each."""
        ...


def reads_prompt(drafter: object) -> bool:
    """Whether the target's states along the whole prompt are to be kept for it."""
    return isinstance(drafter, PromptDrafter) and drafter.reads_prompt


@runtime_checkable
class KeepingDrafter(Protocol):
    """A drafter that can keep what the prompts about one scene have in common; without it each is read whole."""

    def keep(self, scene: Any) -> None:
        """From now on, `start` with this scene (the same object) reads only what is new; None ends that."""
        ...


@runtime_checkable
class ConcurrentDrafter(Drafter, Protocol):
    """A drafter that works beside its caller, one job at a time: `DrafterProcess`, `DrafterThread`."""

    def begin(self, scene: Any, question: str, limit: int) -> None:
        """Start to read a prompt and to draft up to `limit` tokens; return at once.

        The job ends at the limit, at an end token, or after `take`.
        """
        ...

    def follow(self, answer: Sequence[int], limit: int) -> None:
        """Stop the job, and draft up to `limit` tokens after `answer` instead; return at once."""
        ...

    def made(self) -> Draft:
        """What the job has drafted so far; it goes on."""
        ...

    def is_done(self) -> bool:
        """Whether the job has ended, by itself or by an error that the next wait raises."""
        ...

    def take(self) -> Draft:
        """Stop the job and return what was drafted so far, without waiting for the token being made."""
        ...

    def wait(self) -> None:
        """Wait until the job has ended by itself; an error of the drafter is raised here."""
        ...

    def events(self) -> list[Event]:
        """Return what was read and drafted since `begin`, without proposals; waits for the end of a stopped job."""
        ...


class OwnWorker(ConcurrentDrafter):
    """What a drafter with a worker of its own has besides: it is closed, by itself behind a `with`."""

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        """Let the drafter read a prompt and wait for it, as any drafter does."""
        self.begin(scene, question, limit=0)
        recorder.events += self.events()

    def close(self) -> None:
        """End the worker."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SequenceDrafter:
    """Proposes a fixed sequence, e.g. a recorded draft; nothing once the answer has left it. Empty: drafts nothing."""

    device = torch.device("cpu")

    def __init__(self, tokens: Sequence[int] = (), name: str = "sequence"):
        self.tokens, self.name = list(tokens), name

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        """Nothing to read."""

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        if len(answer) >= len(self.tokens) or self.tokens[: len(answer)] != list(answer):
            return Draft()
        return certain(self.tokens[len(answer) : len(answer) + count], stop)


def certain(tokens: list[int], stop: Stop | None) -> Draft:
    """A draft of tokens without probabilities."""
    for i in range(len(tokens)):
        if stop is not None and stop(1.0):
            tokens = tokens[: i + 1]
            break
    return Draft(tokens, [1.0] * len(tokens))


def write_on(
    drafter: Drafter,
    answer: Sequence[int],
    limit: int,
    ends: frozenset[int],
    stop: Callable[[], bool],
    recorder: Recorder,
) -> Iterator[tuple[int, float]]:
    """Draft greedily behind `answer`, each token with its confidence as soon as it is made: a job of a drafter that
    works beside its caller.

    Args:
        limit: no more tokens than this.
        ends: tokens behind which nothing is drafted.
        stop: asked before each token; True ends the job.
    """
    if limit < 1:
        return
    tokens, greedy = list[int](), Sampler()
    with recorder("drafter", "draft", drafter.device) as info:
        info["drafted"] = 0
        while len(tokens) < limit and not stop():
            draft = drafter.propose([*answer, *tokens], 1, greedy)
            if not draft.tokens:
                break
            tokens.append(draft.tokens[0])
            yield draft.tokens[0], draft.confidence[0]
            info["drafted"] = len(tokens)
            if tokens[-1] in ends:
                break
