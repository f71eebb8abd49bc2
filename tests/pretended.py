"""Two devices where there is none, whose tensors keep their values (see `egptlib.rehearsal`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from egptlib.rehearsal import Audience, Pretended
from egptlib.rehearsal import pretended_devices as devices

WAITS: list[str] = []  # what made the host wait for a pretended device


class _Waits(Audience):
    def waited(self, device: torch.device) -> None:
        WAITS.append(str(device))


@contextmanager
def pretended_devices() -> Iterator[None]:
    """Within, "pretend:0" and "pretend:1" are devices."""
    with devices(_Waits()):
        yield


def put(module: Any, device: str) -> None:
    """Move a module's parameters and buffers to a pretended device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_on(parameter.detach(), device), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _on(buffer, device)


def _on(tensor: Any, device: str) -> Any:
    return tensor if isinstance(tensor, Pretended) else Pretended(tensor, torch.device(device))
