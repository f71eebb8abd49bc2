"""Whether a machine was left to the one who measured on it: CPU seconds beside wall seconds, and what others took."""

import os
import time
from dataclasses import dataclass
from typing import NamedTuple

import psutil

MOST_TAKEN, LEAST_IDLE = 0.10, 0.25
"""Shares of all cores: others that take more than the first while less than the second is idle disturb a timing."""


@dataclass(frozen=True)
class Load:
    """What went on while a `Meter` ran.

    Attributes:
        wall_seconds: by the clock.
        cpu_seconds: of this process and its children, over all cores.
        others: share of all cores that other programs took, or the host of a virtual machine; 0 to 1.
        idle: share of all cores that nobody took.
        load_average: of the last minute, at the end.
        cores: logical ones.
    """

    wall_seconds: float
    cpu_seconds: float
    others: float
    idle: float
    load_average: float
    cores: int

    @property
    def is_disturbed(self) -> bool:
        """Whether times measured meanwhile are those of a busy machine: others took a part of what was wanted."""
        return self.others > MOST_TAKEN and self.idle < LEAST_IDLE

    def __str__(self) -> str:
        own = f"{self.cpu_seconds:.0f} CPU seconds in {self.wall_seconds:.0f} s"
        return f"{own}; other programs took {self.others:.0%} of the cores"


class Meter:
    """Starts when it is made; `read` may be called again and again.

    meter = Meter()
    ...
    meter.read().is_disturbed
    """

    def __init__(self) -> None:
        self._start = _now()

    def read(self) -> Load:
        """What went on since it was made."""
        since, now = self._start, _now()
        wall, cores = now.wall - since.wall, psutil.cpu_count() or 1
        own = max(0.0, now.own - since.own)
        all_cores = max(wall * cores, 1e-9)
        return Load(
            wall_seconds=wall,
            cpu_seconds=own,
            others=min(1.0, max(0.0, now.busy - since.busy - own) / all_cores),
            idle=min(1.0, max(0.0, now.idle - since.idle) / all_cores),
            load_average=os.getloadavg()[0],
            cores=cores,
        )


class _Reading(NamedTuple):
    wall: float
    own: float
    busy: float
    idle: float


def _now() -> _Reading:
    machine = psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # Linux counts them in user, too
    me = psutil.Process()
    times = [me.cpu_times()]
    for child in me.children(recursive=True):
        try:
            times.append(child.cpu_times())
        except psutil.NoSuchProcess:  # it ended in between, and is in its parent's sums
            continue
    own = sum(part.user + part.system + part.children_user + part.children_system for part in times)
    return _Reading(time.perf_counter(), own, sum(machine) - idle - guests, idle)
