"""What ran, and on what: the words that stand beside every measured figure."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from egptlib.models._load import Pair
from egptlib.models._quantization import precision_of


def describe_pair(pair: Pair) -> dict[str, Any]:
    """Name, device, precision and package versions of a pair, as `Costs` and `Trace` call them.

    `precision` is that of the target's weights: `nf4`, `int8`, or the dtype it computes in.
    """
    packages = ("torch", "transformers")
    return {
        "pair": pair.name,
        "device": device_name(pair.target.device),
        "precision": _precision(pair),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
    }


def device_name(device: torch.device | str) -> str:
    """A device as reports call it: a GPU by its model, a CPU by the threads that torch has."""
    device = torch.device(device)
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return f"{device.type}: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _precision(pair: Pair) -> str:
    quantization = getattr(pair.target.module.config, "quantization_config", None)
    return precision_of(quantization) or str(pair.target.dtype).removeprefix("torch.")
