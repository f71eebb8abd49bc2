"""Checkpoints of the earlier trainer: `torch.save` of weights, configuration, epoch and metrics."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egptlib.adapters._build import build, fill
from egptlib.adapters._levels import Adapter
from egptlib.adapters._settings import level_settings

_RECORD = "HiddenAdapterConfig"
_CONFIG = {
    "hidden_dim": "hidden_size",
    "bottleneck_dim": "bottleneck",
    "num_blocks": "num_blocks",
    "num_heads": "num_heads",
    "ffn_dim": "ffn_dim",
    "num_layers": "num_layers",
    "dropout": "dropout",
}
_LAYER = (
    (r"layers\.(\d+)\.attn\.in_proj_(weight|bias)", r"layers.\1.qkv.\2"),
    (r"layers\.(\d+)\.attn\.out_proj\.", r"layers.\1.out."),
    (r"layers\.(\d+)\.ffn\.0\.", r"layers.\1.up."),
    (r"layers\.(\d+)\.ffn\.3\.", r"layers.\1.down."),
)
_BOTTLENECK = (
    (r"blocks\.(\d+)\.alpha_param", r"blocks.\1.scale"),
    (r"blocks\.(\d+)\.(down|up)_proj\.", r"blocks.\1.\2."),
    (r"blocks\.(\d+)\.layer_norm\.", r"blocks.\1.norm."),
    (r"final_norm\.", r"norm."),
)
_EAGLE = (*_LAYER, (r"pos_embed", "positions"), (r"alpha", "scale"), (r"output_proj\.", "output."))
_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "L1": ((r"layers\.(\d+)\.", r"blocks.\1."), *_BOTTLENECK),
    "L2": _BOTTLENECK,
    "L3": (
        (r"blocks\.(\d+)\.0\.", r"blocks.\1.down."),
        (r"blocks\.(\d+)\.1\.", r"blocks.\1.norm."),
        (r"blocks\.(\d+)\.4\.", r"blocks.\1.up."),
        (r"alphas\.(\d+)", r"blocks.\1.scale"),
        (r"final_norm\.", r"norm."),
    ),
    "L4": (
        *_LAYER,
        (r"alpha", "scale"),
        (r"output_proj\.0\.", "output_norm."),
        (r"output_proj\.1\.", "output."),
    ),
    "L5": _EAGLE,
    "B1": _EAGLE,
    "L5F": (*_EAGLE, (r"fusion_proj\.", "fusion."), (r"fusion_norm\.", "input_norm."), (r"gate\.0\.", "gate.")),
}


class _Record:
    """Stands for the pickled configuration of L1: nothing but its attributes."""


def load_legacy(path: Path) -> Adapter:
    """Open a checkpoint of the earlier trainer; its formulas, so its outputs (see `Adapter`).

    L1 holds its configuration as a pickled dataclass. That one name becomes a plain record; a pickle that asks for
    anything else than tensors and plain values is refused. The earlier L4 looked at later positions and is opened
    that way (`settings.causal` is False).

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, refused (the name it asks for is given), or of no known level.
    """
    content = _unpickle(path)
    weights = content.get("model_state_dict")
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path}: field 'model_state_dict' is missing; expected an adapter of the earlier trainer")
    config = content.get("config")
    config = vars(config) if isinstance(config, _Record) else config
    if not isinstance(config, dict) or not isinstance(config.get("hidden_dim"), int):
        raise ValueError(f"{path}: field 'config.hidden_dim' is missing; expected the width of the states")
    adapter_type = content.get("adapter_type")  # "L2_MultiLayerBottleneck"; L1 was saved without one
    level = "L1" if adapter_type is None else str(adapter_type).partition("_")[0]
    if level not in _NAMES:
        raise ValueError(f"{path}: field 'adapter_type' is {adapter_type!r}; expected one of {', '.join(_NAMES)}")
    settings = {ours: config[theirs] for theirs, ours in _CONFIG.items() if theirs in config}
    if level == "L1" and "num_layers" in settings:
        settings["num_blocks"] = settings.pop("num_layers")
    adapter = build(level_settings(level, **settings, **({"causal": False} if level == "L4" else {})))
    fill(adapter, {_renamed(name, level): value.float() for name, value in weights.items()}, str(path))
    return adapter


def _unpickle(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    refused: list[str] = []
    try:
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        refused = [name for name in asked if name.rpartition(".")[2] != _RECORD]
        allowed: list[Any] = [(_Record, name) for name in asked if name not in refused]
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        if refused:
            raise ValueError(f"{path}: refused: its pickle asks for {refused[0]}, not for an adapter") from None
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{path}: not a readable checkpoint of the earlier trainer ({reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {type(content).__name__}; expected a dict with 'model_state_dict'")
    return content


def _renamed(name: str, level: str) -> str:
    for pattern, ours in _NAMES[level]:
        name = re.sub(f"^{pattern}", ours, name)
    return name
