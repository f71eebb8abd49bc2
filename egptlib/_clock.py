"""The one clock: stretches of work of the models, stamped, and the one place where the library waits for a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

READING = ("preprocess", "vision", "prefill")  # the stages before a model's first token


@dataclass(frozen=True)
class Event:
    """One stretch of work of one model.

    Attributes:
        lane: which model worked, "drafter" or "target".
        stage: "preprocess", "vision", "prefill", "draft", "verify" (a draft was checked) or "step" (nothing was
            drafted, the target decoded one token).
        start, end: seconds of `time.perf_counter`, the same clock for all threads and processes of the machine; in a
            trace since the run's first event began.
        info: what is worth knowing about it, e.g. `drafted` and `accepted` counts, how many tokens of a first draft
            were `free`, the `tokens` of a draft, and how many levels `depth` it has where trees are drafted (a trace
            keeps the counts alone).
    """

    lane: str
    stage: str
    start: float
    end: float
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Recorder:
    """Stamps events; may be used from several threads at once.

        with recorder("drafter", "draft", device) as info:
            info["drafted"] = 3

    Attributes:
        events: in the order in which they ended.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    @contextmanager
    def __call__(self, lane: str, stage: str, device: torch.device) -> Iterator[dict[str, Any]]:
        """Time a stage; the device has finished what was asked of it at both ends."""
        info: dict[str, Any] = {}
        synchronize(device)
        start = time.perf_counter()
        try:
            yield info
        finally:
            synchronize(device)
            self.events.append(Event(lane, stage, start, time.perf_counter(), info))


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Seconds of a whole call, and what it returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what this thread asked of it; returns at once on the CPU.

    It waits for the current stream alone, so that a second model on a stream of its own is not waited for.
    """
    if device.type != "cpu":
        import torch

        torch.accelerator.current_stream(device).synchronize()


def stage_seconds(events: Iterable[Event]) -> dict[tuple[str, str], float]:
    """Seconds by lane and stage, in the order in which they first began."""
    found: dict[tuple[str, str], float] = {}
    for event in sorted(events, key=lambda event: event.start):
        found[event.lane, event.stage] = found.get((event.lane, event.stage), 0.0) + event.seconds
    return found
