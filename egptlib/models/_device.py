"""Devices that this machine has, what reports call them, and how much memory a piece of work needs at most."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def usable_device(name: str | torch.device, field: str = "device") -> torch.device:
    """Return a device that tensors can be put on here.

    Raises:
        ValueError: no such device, on this machine or at all; the message begins with `field`.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each backend has its own
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{field}: expected cpu, or a device of this machine, found {str(name)!r} ({reason})"
        ) from None


def device_name(device: torch.device | str) -> str:
    """A device as reports call it: a GPU by its model, a CPU by the threads that torch has."""
    device = torch.device(device)
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return f"{device.type}: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def ids_on(device: torch.device, ids: Sequence[int] | Tensor) -> Tensor:
    """Token ids int64 [n], numbers or a tensor on the CPU, on a device; the host does not wait for what that is doing.

    `torch.tensor(ids, device="cuda")` does: it copies from memory that may be paged out.
    """
    tensor = torch.as_tensor(ids, dtype=torch.long)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def peak_bytes(job: Callable[[], Any], device: torch.device) -> int:
    """Bytes of tensors alive at most while `job` runs, beyond those alive before.

    On the CPU torch's profiler reports every block that is taken and given back, so that what the process's allocator
    keeps for later does not count. The job runs once, and slower than without being watched.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    watched = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _speechless():
        watched.start()
    try:
        job()
    finally:
        with _speechless():
            watched.stop()
    results: Any = watched.profiler
    blocks = [(e.start_ns(), e.nbytes()) for e in results.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for _, size in sorted(blocks, key=lambda block: block[0]):
        alive += size
        most = max(most, alive)
    return most


@contextmanager
def _speechless() -> Iterator[None]:
    """Keep from the terminal what torch's profiler says to it below Python, whenever it starts and stops."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
