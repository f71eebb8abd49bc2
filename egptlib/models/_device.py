"""Devices that this machine has."""

from collections.abc import Sequence

import torch
from torch import Tensor


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


def ids_on(device: torch.device, ids: Sequence[int] | Tensor) -> Tensor:
    """Token ids int64 [n], numbers or a tensor on the CPU, on a device; the host does not wait for what that is doing.

    `torch.tensor(ids, device="cuda")` does: it copies from memory that may be paged out.
    """
    tensor = torch.as_tensor(ids, dtype=torch.long)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
