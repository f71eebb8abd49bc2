"""An adapter made from settings and filled with tensors; safetensors files, written atomically."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from egptlib._paths import atomic_write
from egptlib.adapters._levels import CLASSES, Adapter
from egptlib.adapters._settings import AdapterSettings, level_settings


def create_adapter(level: str, hidden_size: int = 4096, **settings: Any) -> Adapter:
    """Build an adapter with fresh weights.

    Args:
        level: L1, L2, L3, L4, L5, L5F, B1, E3, E3S, DF.
        hidden_size: width of the target's states; the drafter's too unless `drafter_size` says otherwise.
        settings: any other field of `AdapterSettings`.

    Raises:
        ValueError: an unknown level or setting, or a value that does not fit.

    Example:
        >>> adapter = create_adapter("L1", hidden_size=64)
        >>> adapter.num_parameters
        33025
    """
    return build(level_settings(level, hidden_size=hidden_size, **settings))


def build(settings: AdapterSettings) -> Adapter:
    """Return an adapter of these settings with fresh weights."""
    return CLASSES[settings.level](settings)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically, with a checksum of all of them; OSError where the disk is full."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary, {"checksum": _checksum(tensors)})
        except SafetensorError as error:
            raise OSError(f"{path}: not written ({error}); make space, and the same command goes on") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; ValueError names it where it is damaged. One without a checksum is taken as it is."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get("checksum")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    if told is not None and told != _checksum(tensors):
        raise ValueError(f"{path}: damaged: other weights than were written")
    return tensors


def _checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes, in order of name, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fill(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Load weights; ValueError as in `check_fit`."""
    check_fit(module.state_dict(), tensors, name)
    module.load_state_dict(tensors)


def check_fit(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str) -> None:
    """ValueError (starting with `name`) for the first tensor that is missing, too many or misshapen."""
    for key, value in expected.items():
        if key not in tensors:
            raise ValueError(f"{name}: tensor {key!r} is missing; expected {list(value.shape)}")
        if tensors[key].shape != value.shape:
            raise ValueError(f"{name}: tensor {key!r} is {list(tensors[key].shape)}; expected {list(value.shape)}")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"{name}: tensor {extra[0]!r} does not belong to its settings")
