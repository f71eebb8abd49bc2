"""How much memory a piece of work needs at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


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
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        job()
    results: Any = watched.profiler
    blocks = [(e.start_ns(), e.nbytes()) for e in results.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for _, size in sorted(blocks, key=lambda block: block[0]):
        alive += size
        most = max(most, alive)
    return most
