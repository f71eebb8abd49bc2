"""Devices that this machine has."""

import torch


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
