"""GPUs shared out among workers: each takes as many as its pair names and hides the others, before CUDA is used."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_claimed: list[int] = []  # open lock files of this process's GPUs


def own_devices(pair: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The fields of a pair on GPUs of its own, which a process counts from 0, and how many those are."""
    named: dict[str, int] = {}
    for side in ("device", "target_device"):
        device = torch.device(pair.get(side) or "cpu")
        if device.type == "cuda":
            named[side] = device.index or 0
    numbers = sorted(set(named.values()))
    return dict(pair) | {side: f"cuda:{numbers.index(number)}" for side, number in named.items()}, len(numbers)


def check_gpus(workers: int, count: int) -> None:
    """Raise ValueError where this machine has fewer GPUs than so many workers with `count` each need."""
    if (there := len(_visible())) < workers * count:
        each = "one GPU" if count == 1 else f"{count} GPUs"
        raise ValueError(f"workers: expected at most {there // count}, with {each} for each here, found {workers}")


def claim_gpus(count: int = 1) -> None:
    """Take GPUs of this machine that no other worker has, and hide the others; before CUDA is first used.

    Held by lock files until the process ends. Where CUDA_VISIBLE_DEVICES names exactly so many, those are it.

    Raises:
        RuntimeError: too few are free.
    """
    devices = _visible()
    if _claimed or count == 0 or (os.environ.get("CUDA_VISIBLE_DEVICES") and len(devices) == count):
        return
    taken = list[str]()
    for device in devices:
        place = Path(tempfile.gettempdir(), f"egptlib-{os.getuid()}-gpu-{device}.lock")
        file = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        _claimed.append(file)
        taken.append(device)
        if len(taken) == count:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
            return
    while _claimed:
        os.close(_claimed.pop())
    wanted = "no free GPU" if count == 1 else f"no {count} free GPUs"
    raise RuntimeError(f"{wanted} among {', '.join(devices) or 'none'}: start fewer workers")


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")] if named else [str(i) for i in range(torch.cuda.device_count())]
