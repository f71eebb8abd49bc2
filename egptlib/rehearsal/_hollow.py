"""Models without weights on pretended devices, through the same code that loads real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from egptlib.models import is_quantized
from egptlib.rehearsal._device import Pretended


@contextmanager
def hollow_checkpoints() -> Iterator[None]:
    """Within, transformers' `from_pretrained` reads a checkpoint's configs and no weights.

    They are put on the device and quantized there one by one, as loading does.
    """
    import bitsandbytes.functional

    tables = patch.dict(bitsandbytes.functional.name2qmap, clear=True)  # one stays on the first device that asks
    with tables, patch.object(PreTrainedModel, "from_pretrained", classmethod(_from_pretrained)):
        yield


def _from_pretrained(kind: Any, folder: Path, *_: Any, config: Any = None, **options: Any) -> Any:
    config = config or kind.config_class.from_pretrained(folder)
    dtype, device = options["dtype"], options["device_map"][""]
    with torch.device("meta"):
        module: Any = kind._from_config(config, dtype=dtype)
    fill(module, device, options.get("quantization_config"), dtype)
    if options.get("quantization_config") is not None:
        module.config.quantization_config = options["quantization_config"]
    if Path(folder, "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder)
    return module, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}


def fill(module: nn.Module, device: Any, quantization: Any = None, dtype: torch.dtype = torch.bfloat16) -> None:
    """Put a module of meta tensors on a pretended device."""
    for name, part in list(module.named_modules()):
        if quantization is not None and is_quantized(name, part):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, _quantized(part, device, quantization, dtype))
    seen: dict[int, Any] = {}  # a weight may stand at two places
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and not isinstance(tensor, Pretended):
                    placed = seen.setdefault(id(tensor), empty(tensor.shape, tensor.dtype, device))
                    tensors[name] = nn.Parameter(placed, requires_grad=False) if tensors is part._parameters else placed


def empty(shape: Any, dtype: torch.dtype, device: Any) -> Tensor:
    """Where it is so small that its values are kept, they are zeros: places that every table has."""
    made = torch.empty(shape, dtype=dtype, device=device)
    held = getattr(made, "held", made)
    if not held.is_meta:
        held.zero_()
    return made


def _quantized(linear: Any, device: Any, quantization: Any, dtype: torch.dtype) -> nn.Module:
    """bitsandbytes' layer, its weight quantized on the device by bitsandbytes' own code.

    Its parameter classes cannot hold a pretended tensor; the layers ask no more of a weight than what is set here.
    """
    import bitsandbytes

    bnb: Any = bitsandbytes
    sizes: Any = (linear.in_features, linear.out_features, linear.bias is not None)
    weight = empty(linear.weight.shape, dtype, device)
    with torch.device("meta"):
        if quantization.load_in_4bit:
            layer: Any = bnb.nn.Linear4bit(*sizes, compute_dtype=quantization.bnb_4bit_compute_dtype)
            layer.support_avx512bf16_for_cpu = False  # it would lay the weight out anew
        else:
            layer = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=quantization.llm_int8_threshold)
    if quantization.load_in_4bit:
        packed, state = bnb.functional.quantize_4bit(
            weight, quant_type=quantization.bnb_4bit_quant_type,
            compress_statistics=quantization.bnb_4bit_use_double_quant,
        )  # fmt: skip
        layer.weight = nn.Parameter(packed, requires_grad=False)
        layer.weight.quant_state = layer.quant_state = state
    else:
        packed, scales, _ = bnb.functional.int8_vectorwise_quant(weight.to(torch.float16))
        layer.weight = nn.Parameter(packed, requires_grad=False)
        layer.weight.CB, layer.weight.SCB = layer.weight, scales
    if layer.bias is not None:
        layer.bias = nn.Parameter(empty(linear.bias.shape, dtype, device), requires_grad=False)
    return layer.eval()
