"""The sensor's clock: while a window is open, the target reads its frames and the drafter drafts from its events."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Unpack

from egptlib._clock import Event, Recorder
from egptlib.decoding._drafter_thread import DrafterThread
from egptlib.decoding._drafters import ConcurrentDrafter, Draft, Drafter, SequenceDrafter, Stop, certain, source_layers
from egptlib.decoding._generation import Generation
from egptlib.decoding._loop import as_drafter, speculative_decode
from egptlib.decoding._prompts import FrameReader, PromptReader
from egptlib.decoding._round import Options, Settings
from egptlib.decoding._sampling import Sampler
from egptlib.models import Model, State
from egptlib.scenes import Scene, SensorClock

LOOK = -1  # in place of a frame's number


@dataclass(frozen=True)
class Streamed(Generation):
    """An answer that was begun before its window closed. Stamps are seconds of the clock that was followed.

    Attributes:
        opened: when the window began.
        frames: when each frame was exposed; the window closes with the last one.
        looks: when the drafter was handed the window so far -> what it had drafted from it when it was stopped.
        first_token: when the answer's first token was certain.
        last_token: when the whole answer was.
        preview: the target's answer to the window so far, where it gave one: the draft that was verified.
    """

    opened: float = 0.0
    frames: tuple[float, ...] = ()
    looks: dict[float, Draft] = field(default_factory=dict)
    first_token: float = 0.0
    last_token: float = 0.0
    preview: tuple[int, ...] = ()

    @property
    def seconds_to_first(self) -> float:
        """From the last frame's timestamp to the first token."""
        return self.first_token - self.frames[-1]

    @property
    def seconds_to_last(self) -> float:
        """From the last frame's timestamp to the end of the answer."""
        return self.last_token - self.frames[-1]


def stream(
    target: Model,
    drafter: Drafter | Model | None,
    scene: Scene,
    question: str,
    *,
    looks: Sequence[float] = (0.6, 0.8),
    preview: bool = True,
    then: Drafter | None = None,
    clock: SensorClock | None = None,
    **options: Unpack[Options],
) -> Streamed:
    """Answer a question about a scene, while its events and frames still come in.

    The target reads each frame when it is exposed. The drafter reads the events so far and drafts, anew at each look.
    In between, the target answers the window so far (a preview: the last frame stands in for those to come), checking
    what was drafted. What is ready when the window closes is only a draft: the target, having read the last frame and
    the question, verifies it, and the answer is the one that plain decoding gives on the whole window.

    Args:
        target: whose answer it is. One that does not see its frames apart (`Model.frames_apart`) reads them all when
            the window has closed, with a warning.
        drafter: as in `speculative_generate`; one that is no `ConcurrentDrafter` works in a thread meanwhile, which on
            a CPU slows the target more than a `DrafterProcess` does. None: there are previews alone.
        looks: shares of the window after which the drafter reads what was seen so far; its draft from the look before
            is dropped. At 1 the window has closed: the draft from before is verified first, while the drafter reads
            anew what it drafts from afterwards. Without looks it does nothing.
        preview: False: the drafter's own draft is what is verified.
        then: as in `hidden_prefill_generate`: drafts after the first verification, e.g. a head.
        clock: followed instead of one at the sensor's own speed; the window opens when this is called.
        options: as in `speculative_generate`, but gamma is 8 where it is not told and counts from the second
            verification on. Until the window closes all is drafted greedily, under sampling too.

    Raises:
        ValueError: shares that do not increase within (0, 1], a limit below 1, or no raw events to look at.
    """
    looks = list(looks)
    if any(not 0 < share <= 1 for share in looks) or any(a >= b for a, b in pairwise(looks)):
        raise ValueError(f"looks: expected increasing shares of the window, above 0 and up to 1, found {looks}")
    options = {"gamma": 8, **options}
    limit, clock = Settings(**options).max_new_tokens, clock or SensorClock(scene)
    with ExitStack() as stack:
        beside: Any = as_drafter(drafter, target) if looks and drafter is not None else SequenceDrafter()
        if not isinstance(beside, ConcurrentDrafter):
            beside = stack.enter_context(DrafterThread(beside, target.eos_token_ids))
        ahead = _Ahead(target, beside, clock, question, limit, sees=drafter is not None)
        frames = [(at, index) for index, at in enumerate(clock.frame_times.tolist())]
        early = sorted([*frames[:-1], *((share * clock.length, LOOK) for share in looks if share < 1)])
        clock.start()
        for (at, what), (until, _) in pairwise([*early, frames[-1]]):
            clock.wait(at)
            ahead.let_rest()
            if what == LOOK:
                ahead.look(at)
            else:
                ahead.read_frame(what)
            if preview:
                ahead.preview(until)
        if preview:
            ahead.warm_up()
        clock.wait(clock.length)
        ahead.let_rest(closed=True)
        follower: Any = then or _Earlier([ahead.answer, ahead.drafted()], beside)
        state = ahead.read_to_the_end(source_layers(follower))
        first_token = clock.now()
        draft = ahead.draft()
        if 1 in looks:
            ahead.look(clock.length, limit=0)
        if then is not None:
            then.start(clock.scene, question, ahead.recorder)
        generation = speculative_decode(target, state, follower, recorder=ahead.recorder, draft=draft, **options)
        last_token = clock.now()
        own = [*ahead.drafting, *(beside.events() if 1 in looks else [])]
        events = sorted([*ahead.recorder.events, *own], key=lambda event: event.end)
        return Streamed(
            **vars(generation) | {"events": events},
            opened=clock.origin,
            frames=tuple(clock.stamp(at) for at, _ in frames),
            looks=ahead.looks,
            first_token=first_token,
            last_token=last_token,
            preview=tuple(ahead.answer),
        )


class _Ahead:
    """What is done while the window is open."""

    def __init__(
        self, target: Model, beside: ConcurrentDrafter, clock: SensorClock, question: str, limit: int, sees: bool
    ):
        self.target, self.beside, self.clock, self.question = target, beside, clock, question
        self.limit, self.sees = limit, sees
        self.recorder, self.drafting = Recorder(), list[Event]()
        self.looks: dict[float, Draft] = {}
        self.answer: list[int] = []
        self._running = False
        self._previewed = -1  # with so many frames the answer was complete
        self._seen = 0
        self._reader = FrameReader(target, question, len(clock.frame_times)) if target.frames_apart else None
        if self._reader is None:
            warnings.warn(
                f"{target.name} does not see its frames apart: it reads them when the window has closed",
                stacklevel=3,
            )

    def look(self, at: float, limit: int | None = None) -> None:
        """Hand the drafter the window so far."""
        self._stop()
        self.looks[self.clock.stamp(at)] = Draft()
        if self.sees:
            self.beside.begin(self.clock.window(at), self.question, self.limit - 1 if limit is None else limit)
            self._running = True

    def read_frame(self, index: int) -> None:
        """Let the target see a frame and read as far as it goes."""
        if self._reader is not None:
            self._reader.see(self.clock.frame(index), self.recorder)
            self._seen = index + 1
            if self._seen < len(self.clock.frame_times):
                self._reader.read(self.recorder)

    def read_to_the_end(self, layers: Sequence[int]) -> State:
        """The window has closed: the target's state after the whole prompt."""
        if self._reader is None:
            return PromptReader(self.target, self.clock.scene, "target").read(self.question, self.recorder, layers)
        self.read_frame(len(self.clock.frame_times) - 1)
        return self._reader.ask(self.recorder, layers)

    def let_rest(self, closed: bool = False) -> None:
        """A drafter that has finished, or whose draft is no longer wanted, stops: its core is the target's again."""
        if self._running and (self.beside.is_done() or (closed and self.answer)):
            self._stop()

    def draft(self) -> Draft:
        """What is ready; the drafter stops."""
        self._stop()
        made = self.looks[max(self.looks)] if self.looks else Draft()
        return Draft(self.answer, [1.0] * len(self.answer)) if self.answer else made

    def preview(self, until: float) -> None:
        """Let the target answer the window so far, for as long as its passes end before a sensor time."""
        if self._reader is None or self._seen in (0, self._previewed):
            return
        missing = len(self.clock.frame_times) - self._seen
        reading = next(e.seconds for e in reversed(self.recorder.events) if e.stage == "prefill")
        if not self._in_time(until, (1 + missing) * reading):
            return
        drafted = self.drafted()
        draft = self.answer or drafted
        passes = Recorder()
        with self.recorder("target", "preview", self.target.device) as info:
            made = speculative_decode(
                self.target,
                self._reader.ask(passes),
                _Earlier([self.answer, drafted], SequenceDrafter()),
                max_new_tokens=self.limit,
                recorder=passes,
                draft=Draft(draft, [1.0] * len(draft)),
                stop=lambda: not self._in_time(until, passes.events[-1].seconds),
            ).token_ids.tolist()
            info.update(drafted=len(draft), tokens=made)
        if made and (len(made) == self.limit or made[-1] in self.target.eos_token_ids):
            self.answer, self._previewed = made, self._seen
        else:  # what is left of the draft may still come true
            self.answer = made + _after(draft, made, self.limit - len(made))

    def warm_up(self) -> None:
        """Read the prompt once more, shortly before the window closes: a processor that has idled is slow at first."""
        if self._reader is None or not self._seen:
            return
        reading = next(e.seconds for e in reversed(self.recorder.events) if e.stage == "prefill")
        self.clock.wait(self.clock.length - 2 * reading * self.clock.speed)
        if self._in_time(self.clock.length, 1.5 * reading):
            with self.recorder("target", "preview", self.target.device) as info:
                self._reader.ask(Recorder())
                info.update(drafted=0, tokens=self.answer)

    def drafted(self) -> list[int]:
        """What the drafter has drafted last."""
        made = self.beside.made().tokens if self._running else []
        return made or next((draft.tokens for draft in reversed(self.looks.values()) if draft.tokens), [])

    def _in_time(self, until: float, seconds: float) -> bool:
        return self.clock.now() + seconds < self.clock.stamp(until)

    def _stop(self) -> None:
        if self._running:
            self._running = False
            self.looks[max(self.looks)] = self.beside.take()
            self.drafting += self.beside.events()


class _Earlier:
    """Drafts what follows in earlier drafts of this answer, tried in turn, else what another drafts."""

    def __init__(self, drafts: Sequence[Sequence[int]], other: Drafter):
        self.drafts, self.other, self.name, self.device = drafts, other, other.name, other.device

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        """All was read before."""

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        for draft in self.drafts:
            if found := _after(draft, answer, count):
                return certain(found, stop)
        return self.other.propose(answer, count, sampler, stop)


def _after(draft: Sequence[int], answer: Sequence[int], count: int) -> list[int]:
    """What follows in a draft where the answer's last two tokens stand in it, nearest to the same place.

    Or those before its last one: one token may have been exchanged for another.
    """
    text, said = [-2, -1, *draft], [-2, -1, *answer]
    for exchanged in (0, 1):
        last, end = said[-2 - exchanged : len(said) - exchanged], len(said) - exchanged
        if len(last) == 2 and (places := [i for i in range(2, len(text)) if text[i - 2 : i] == last]):
            place = min(places, key=lambda place: abs(place - end)) + exchanged
            return text[place : place + count]
    return []
