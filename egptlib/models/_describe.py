"""What ran, and on what: the words that stand beside every measured figure."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from egptlib.models._load import Pair


def describe_pair(pair: Pair) -> dict[str, Any]:
    """Name, device, precision and package versions of a pair, as `Costs` and `Trace` call them.

    `precision` is that of the target's weights: `nf4`, `int8`, or the dtype it computes in. Where the drafter's is
    another one it stands beside the name, as in "mini (drafter in float32)": that is another pair than `mini` in NF4.
    """
    precision, drafters = pair.target.precision, pair.drafter.precision
    packages = ("torch", "transformers")
    return {
        "pair": pair.name if drafters == precision else f"{pair.name} (drafter in {drafters})",
        "device": device_name(pair.target.device),
        "precision": precision,
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
    }


def device_name(device: torch.device | str) -> str:
    """A device as reports call it: a GPU by its model, a CPU by the threads that torch has."""
    device = torch.device(device)
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return f"{device.type}: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
