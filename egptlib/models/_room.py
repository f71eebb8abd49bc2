"""Which precisions of a pair its devices have room for, from its configs alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import psutil
import torch
from transformers import AutoConfig

from egptlib.models._checkpoint import checkpoint_folder, read_config
from egptlib.models._device import usable_device
from egptlib.models._eventgpt import EventGPTConfig
from egptlib.models._memory import GIB, plan_memory
from egptlib.models._pair_file import PairSettings
from egptlib.models._quantization import precision_of

BESIDE = 1.1  # weights, and a tenth of them again for caches and activations


def without_room(pair: PairSettings, precisions: Iterable[str]) -> dict[str, str]:
    """The precisions that a pair cannot be opened in, each with the reason.

    Args:
        precisions: of "float32", "bfloat16", "int8" and "nf4"; those of the plan.

    Raises:
        ValueError: an unfit checkpoint, or a device that this machine lacks.
    """
    folders = {side: checkpoint_folder(pair.folder(side), ["*.json"]) for side in ("drafter", "target")}
    saved = {side: precision_of(read_config(folder).get("quantization_config")) for side, folder in folders.items()}
    plan = plan_memory({side: _config(folder) for side, folder in folders.items()})
    devices = {"drafter": pair.device, "target": pair.target_device or pair.device}
    there = {name: device_bytes(usable_device(name, f"pair {pair.name!r}: device")) for name in devices.values()}
    refused = {}
    for precision in precisions:
        if other := [f"{side} is saved as {kind}" for side, kind in saved.items() if kind not in (None, precision)]:
            refused[precision] = other[0]
            continue
        needed: dict[str, float] = defaultdict(float)
        for side, name in devices.items():
            needed[name] += BESIDE * plan.weight_bytes(saved[side] or precision, side)
        for name, size in needed.items():
            if size > there[name]:
                refused[precision] = f"needs {size / GIB:.1f} GiB of {name}, which has {there[name] / GIB:.1f}"
    return refused


def device_bytes(device: torch.device) -> int:
    """Bytes of memory that a device has free; of another accelerator than CUDA nothing is known, and it counts as
    endless."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2**63


def _config(folder: Any) -> Any:
    kind = EventGPTConfig if read_config(folder).get("model_type") == EventGPTConfig.model_type else AutoConfig
    return kind.from_pretrained(folder)
