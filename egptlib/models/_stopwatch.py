"""Stage times, and the one place where the library waits for a device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

STAGES = ("load", "preprocess", "vision", "prefill", "decode")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what this thread asked of it; returns at once on the CPU.

    It waits for the current stream alone, so that a second model on a stream of its own is not waited for.
    """
    if device.type != "cpu":
        torch.accelerator.current_stream(device).synchronize()


class Stopwatch:
    """Adds up the seconds spent in each stage.

        watch = Stopwatch(device)
        with watch("prefill"):
            ...
        watch.times["prefill"]

    Attributes:
        times: seconds per stage, the five of `STAGES` first.
    """

    def __init__(self, device: torch.device, load_seconds: float = 0.0):
        self.device = device
        self.times: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.times["load"] = load_seconds

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        synchronize(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self.device)
            self.times[stage] = self.times.get(stage, 0.0) + time.perf_counter() - start
