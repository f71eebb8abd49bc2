"""What a model needs in memory, from its config alone: parameters, bytes, KV cache; and which precisions fit a pair.

The models are built on the meta device, so nothing is allocated and no checkpoint is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from egptlib._terminal import columns
from egptlib.models._checkpoint import checkpoint_folder, read_config
from egptlib.models._device import usable_device
from egptlib.models._eventgpt import EventGPT, EventGPTConfig
from egptlib.models._pair_file import PairSettings
from egptlib.models._quantization import is_quantized, precision_of, quantized_bytes

GIB = 2**30
PRECISIONS = ("float32", "bfloat16", "int8", "nf4", "nf4_single")
_BYTES = {"float32": 4, "bfloat16": 2}

# The longest prefix of a parameter's name decides its part.
_PARTS = {
    "visual_tower": "vision tower",
    "model.video_tower": "video tower",
    "model.image_tower": "image tower",
    "model.visual": "vision tower",
    "model.vision_model": "vision tower",
    "model.vision_tower": "vision tower",
    "model.connector": "projector",
    "visual_projector": "projector",
    "model.multi_modal_projector": "projector",
    "feature_adaptor": "feature adaptor",
    "model.embed_tokens": "embeddings",
    "model.language_model.embed_tokens": "embeddings",
    "model.text_model.embed_tokens": "embeddings",
    "model": "language model",
    "lm_head": "lm_head",
}


def published_configs() -> dict[str, EventGPTConfig | VideoLlavaConfig]:
    """The two 7B models: Vicuna-7B with CLIP ViT-L/14-336, and Video-LLaVA-7B with two ViT-L/14 towers at 224.

    Both classes' defaults are the published architectures, but for the 32,064 rows of Video-LLaVA's embeddings.
    """
    text = LlamaConfig(vocab_size=32064, max_position_embeddings=4096)
    return {"EventGPT": EventGPTConfig(), "Video-LLaVA": VideoLlavaConfig(text_config=text)}


@dataclass
class Part:
    """One part of a model.

    Attributes:
        parameters: how many.
        quantized: how many of them "int8" and "nf4" quantize.
        bytes: per precision; what is not quantized stays in 16 bit.
    """

    model: str
    part: str
    parameters: int = 0
    quantized: int = 0
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PRECISIONS, 0))


@dataclass(frozen=True)
class MemoryPlan:
    """Weights and KV cache of several models; `str()` gives the tables, `rows()` what a DataFrame takes.

    Precision "nf4" is what `load_pair(quantization="nf4")` loads, with double quantization; "nf4_single" is without.
    All GiB figures are bytes / 2**30 of stored weights: activations, allocator blocks and CUDA's own context come on
    top. The reports this project started from call the same unit GB.

    Attributes:
        parts: model by model.
        cache_bytes: per model and length, keys and values in 16 bit.
    """

    parts: tuple[Part, ...]
    cache_bytes: dict[str, dict[int, int]]

    def parameters(self, model: str | None = None) -> int:
        return sum(part.parameters for part in self.parts if model in (None, part.model))

    def weight_bytes(self, precision: str, model: str | None = None) -> int:
        """Bytes of the weights of one model, or of all; "float16" takes what "bfloat16" does, "fp4" what "nf4"."""
        precision = {"float16": "bfloat16", "fp4": "nf4"}.get(precision, precision)
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
        return sum(part.bytes[precision] for part in self.parts if model in (None, part.model))

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per part: model, part, parameters, quantized, and GiB per precision."""
        return [
            {"model": p.model, "part": p.part, "parameters": p.parameters, "quantized": p.quantized}
            | {precision: p.bytes[precision] / GIB for precision in PRECISIONS}
            for p in self.parts
        ]

    def against_reports(self) -> list[dict[str, Any]]:
        """The figures measured in the earlier work beside the plan's, where both 7B models are planned.

        All three agree to 0.2 % with the bytes of the stored weights in GiB: no activations, no KV cache. The 4-bit
        figures fit SINGLE quantization (a float32 scale per 64 weights) of every Linear but lm_head, projector and
        feature adaptor, towers included; double quantization, as loaded here, needs 0.3 GiB less per model.
        """
        rows = []
        for what, model, precision, reported in REPORTED:
            planned = self.weight_bytes(precision, model) / GIB
            row = {"what": what, "precision": precision, "reported": reported, "planned": planned}
            rows.append(row | {"difference": planned / reported - 1})
        return rows

    def __str__(self) -> str:
        head = ["model", "part", "parameters", *(f"{p} GiB" for p in PRECISIONS)]
        models = list(dict.fromkeys(part.model for part in self.parts))
        lines: list[list[str]] = []
        for model in models:
            for p in self.parts:
                if p.model == model:
                    lines.append([model, p.part, f"{p.parameters:,}", *(_gib(p.bytes[x]) for x in PRECISIONS)])
            weights = (_gib(self.weight_bytes(x, model)) for x in PRECISIONS)
            lines.append([model, "total", f"{self.parameters(model):,}", *weights])
        if len(models) > 1:
            weights = (_gib(self.weight_bytes(x)) for x in PRECISIONS)
            lines.append(["all", "total", f"{self.parameters():,}", *weights])
        lengths = list(next(iter(self.cache_bytes.values()), {}))
        cache = [[model, *(_gib(size) for size in sizes.values())] for model, sizes in self.cache_bytes.items()]
        cache = [["KV cache, 16 bit, GiB", *(f"{n:,} tokens" for n in lengths)], *cache]
        told = [*columns([head, *lines], left=2, rule=True), "", *columns(cache, rule=True)]
        if set(models) >= {"EventGPT", "Video-LLaVA"}:
            reports = [
                [row["what"], row["precision"], f"{row['reported']:.2f}", f"{row['planned']:.2f}"]
                + [f"{row['difference']:+.1%}"]
                for row in self.against_reports()
            ]
            reports = [["weights, GiB", "precision", "reported", "planned", "difference"], *reports]
            told += ["", *columns(reports, left=2, rule=True)]
            told += ["nf4: double quantization, as loaded here; nf4_single: one float32 scale per 64 weights"]
        return "\n".join(told)


# Measured on the user's GPU and reported as "GB": 13.19 in bfloat16, 4.11 in 4 bit, 8.37 for both models in 4 bit.
REPORTED: tuple[tuple[str, str | None, str, float], ...] = (
    ("EventGPT, bfloat16", "EventGPT", "bfloat16", 13.19),
    ("EventGPT, 4 bit", "EventGPT", "nf4_single", 4.11),
    ("both, 4 bit", None, "nf4_single", 8.37),
)


def stored_bytes(*modules: nn.Module) -> int:
    """Bytes that weights take as they are loaded, bitsandbytes' scales and tables among them.

    A shared weight counts once in each module.
    """
    total = 0
    for module in modules:
        total += sum(parameter.nbytes for parameter in module.parameters())
        for layer in module.modules():
            state: Any = getattr(getattr(layer, "weight", None), "quant_state", None)  # 4 bit
            for scales in (state, getattr(state, "state2", None)):
                tensors = (getattr(scales, name, None) for name in ("absmax", "code", "offset"))
                total += sum(tensor.nbytes for tensor in tensors if tensor is not None)
            rows: Any = getattr(getattr(layer, "weight", None), "SCB", None)  # 8 bit; the first pass moves it
            rows = getattr(getattr(layer, "state", None), "SCB", None) if rows is None else rows
            total += 0 if rows is None else rows.nbytes
    return total


def plan_memory(
    configs: Mapping[str, Any] | None = None,
    lengths: Sequence[int] = (512, 1024, 2048, 4096),
) -> MemoryPlan:
    """Plan the memory of models.

    Args:
        configs: name -> config of EventGPT or of any class of transformers that `load_pair` opens; None plans the two
            7B models as published.
        lengths: sequence lengths for the KV cache (one sequence).
    """
    configs = published_configs() if configs is None else configs
    parts: list[Part] = []
    cache: dict[str, dict[int, int]] = {}
    for name, config in configs.items():
        parts += _parts(name, config)
        per_token = cache_bytes(config.get_text_config(), _BYTES["bfloat16"])
        cache[name] = {length: per_token * length for length in lengths}
    return MemoryPlan(tuple(parts), cache)


def cache_bytes(text: Any, itemsize: int) -> int:
    """Bytes of keys and values that one position takes, by a language model's config and the bytes of a number."""
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * width * itemsize)


def _parts(model: str, config: Any) -> list[Part]:
    with torch.device("meta"):
        module: nn.Module = _class_of(config)(config)
    counted = set[int]()  # the lm head of some models is their embedding
    parts = {part: Part(model, part) for part in dict.fromkeys(_PARTS.values())}
    for name, layer in module.named_modules():
        prefix = max((p for p in _PARTS if f"{name}.".startswith(f"{p}.")), key=len, default="model")
        part = parts[_PARTS[prefix]]
        for kind, parameter in layer.named_parameters(recurse=False):
            if id(parameter) in counted:
                continue
            counted.add(id(parameter))
            count = parameter.numel()
            quantized = kind == "weight" and is_quantized(name, layer)
            part.parameters += count
            part.quantized += count if quantized else 0
            for precision in PRECISIONS:
                part.bytes[precision] += _parameter_bytes(parameter, precision, quantized)
    return [part for part in parts.values() if part.parameters]


def _class_of(config: Any) -> Any:
    if isinstance(config, EventGPTConfig):
        return EventGPT
    if isinstance(config, VideoLlavaConfig):
        return VideoLlavaForConditionalGeneration
    sees = type(config) in AutoModelForImageTextToText._model_mapping
    return (AutoModelForImageTextToText if sees else AutoModelForCausalLM)._model_mapping[type(config)]


def _parameter_bytes(parameter: nn.Parameter, precision: str, quantized: bool) -> int:
    if precision in _BYTES or not quantized:
        return parameter.numel() * _BYTES.get(precision, _BYTES["bfloat16"])
    kind, double_quant = precision.removesuffix("_single"), not precision.endswith("_single")
    return quantized_bytes(parameter.shape[0], parameter.shape[1], kind, double_quant)


def _gib(size: int) -> str:
    return f"{size / GIB:.3f}"


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
