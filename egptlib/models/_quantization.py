"""4-bit and 8-bit loading by bitsandbytes, which modules stay out of it, and its bytes made quickly on a CPU."""

from __future__ import annotations

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.quantizers.quantizers_utils import should_convert_module

Quantization = Literal["nf4", "int8"] | None

# The projectors are 0.5 % of the weights and every visual token goes through them; lm_head decides ties between tokens.
UNQUANTIZED = ("lm_head", "visual_projector", "feature_adaptor", "model.multi_modal_projector")

# On a CPU with AVX512-BF16 it warns at each start that a kernel of the hub is not there; its own serves as well.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "kernels-community" not in str(record.msg))

NF4_BLOCK, NF4_SCALE_BLOCK = 64, 256  # weights per scale, and scales per second-level scale (bitsandbytes' own sizes)


def loading_options(
    quantization: Quantization, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Arguments of `from_pretrained` for one precision on one device.

    Everything that is not quantized (tower's convolution and norms, projector, embeddings, lm_head) is loaded in
    `dtype`, and quantized layers compute in it, so the parts agree. None: bfloat16, or float16 with "int8".

    Raises:
        ValueError: an unknown quantization, or "int8" with another dtype than float16.
    """
    if quantization not in ("nf4", "int8", None):
        raise ValueError(f"quantization: expected 'nf4', 'int8' or None, found {quantization!r}")
    if quantization == "int8":
        if dtype not in (None, torch.float16):
            raise ValueError(
                f"dtype: expected float16 with 'int8' (its kernels compute in nothing else), found {dtype}"
            )
        dtype = torch.float16
    dtype = dtype or torch.bfloat16
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": torch.device(device)}}
    if quantization == "nf4":
        quantize_fast()
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(UNQUANTIZED),
        )
    elif quantization == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(UNQUANTIZED))
    return options


def precision_of(quantization: Any) -> str | None:
    """What a `quantization_config` makes of weights: "nf4", "fp4", "int8", another method's name, or None.

    Args:
        quantization: a `BitsAndBytesConfig` or another method's, the fields of one in a config.json, or None.
    """
    if quantization is None:
        return None
    fields = quantization if isinstance(quantization, dict) else vars(quantization)
    if fields.get("load_in_4bit") or fields.get("_load_in_4bit"):
        return str(fields.get("bnb_4bit_quant_type", "fp4"))
    if fields.get("load_in_8bit") or fields.get("_load_in_8bit"):
        return "int8"
    return str(getattr(fields.get("quant_method"), "value", fields.get("quant_method")))


def fitted_options(config: dict[str, Any], options: dict[str, Any], where: str = "config.json") -> dict[str, Any]:
    """Arguments of `from_pretrained` for a checkpoint that may have been saved quantized: it opens as it is.

    Its own quantization_config counts then, and what is not quantized has the dtype that its layers compute in; a
    warning tells so where no quantization was asked for.

    Args:
        config: the fields of its `config.json`.
        options: as from `loading_options`.
        where: the file, for messages.

    Raises:
        ValueError: another precision was asked for than the weights are saved in.
    """
    saved = config.get("quantization_config")
    if saved is None:
        return options
    precision, asked = precision_of(saved), precision_of(options.get("quantization_config"))
    if asked not in (None, precision):
        raise ValueError(
            f"{where}: quantization_config: the weights are saved as {precision} and cannot be opened as {asked}"
        )
    options = {name: value for name, value in options.items() if name != "quantization_config"}
    if (dtype := saved_dtype(config)) is not None:
        options["dtype"] = dtype
    if asked is None:
        rest = "" if dtype is None else f", what is not quantized in {str(dtype).removeprefix('torch.')}"
        warnings.warn(f"{where}: the weights are saved as {precision} and open so{rest}", stacklevel=4)
    return options


def saved_dtype(config: dict[str, Any]) -> torch.dtype | None:
    """What the quantized layers of a saved checkpoint compute in; None where nothing is quantized by bitsandbytes."""
    saved = config.get("quantization_config") or {}
    if precision_of(saved) not in ("nf4", "fp4", "int8"):
        return None
    dtype: torch.dtype = getattr(
        torch, "float16" if saved.get("load_in_8bit") else saved.get("bnb_4bit_compute_dtype", "float32")
    )
    return dtype


def settle_cpu_layers(module: nn.Module) -> None:
    """Keep bitsandbytes' AVX-512 path away from 4-bit layers whose shape it cannot pack.

    Its packing wants multiples of 32 outputs and of 64 inputs; other shapes (small test models) take the generic path.
    """
    for layer in module.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False) and (
            layer.out_features % 32 or layer.in_features % NF4_BLOCK  # type: ignore[operator]
        ):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def is_quantized(name: str, module: nn.Module) -> bool:
    """Whether `loading_options` quantizes this module of a model."""
    return isinstance(module, nn.Linear) and should_convert_module(name, list(UNQUANTIZED))


def quantized_bytes(out_features: int, in_features: int, precision: str, double_quant: bool = True) -> int:
    """Bytes of one Linear's weight as bitsandbytes stores it (the bias stays as it is).

    nf4: half a byte a weight, and per block of 64 weights a float32 scale; double quantization makes that scale one
    byte and adds a float32 per 256 scales and one offset. Each layer also holds its code tables: 16 values, and 256
    of the second level. int8: one byte a weight and a float32 per output row.
    """
    n = out_features * in_features
    if precision == "int8":
        return n + 4 * out_features
    if precision != "nf4":
        raise ValueError(f"precision: expected 'nf4' or 'int8', found {precision!r}")
    scales = -(-n // NF4_BLOCK)
    packed, tables = -(-n // 2), 4 * 16
    if not double_quant:
        return packed + 4 * scales + tables
    return packed + scales + 4 * -(-scales // NF4_SCALE_BLOCK) + 4 + tables + 4 * 256


OPERATOR = "bitsandbytes::quantize_4bit"
PIECE = 2**17  # weights at once: what they need stays in the processor's cache


@cache
def quantize_fast() -> None:
    """From now on bitsandbytes quantizes on a CPU with `quantize_4bit`, unless it has a kernel of its own there.

    Without one it takes its general code: a binary search a weight, over the whole of it in float32 at once.
    """
    import bitsandbytes  # noqa: F401

    if not torch._C._dispatch_has_kernel_for_dispatch_key(OPERATOR, "CPU"):
        torch.library.impl(OPERATOR, "CPU")(quantize_4bit)


def quantize_4bit(weight: Tensor, blocksize: int, quant_type: str, quant_storage: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantize finite weights block by block.

    Args:
        weight: bfloat16, float16 or float32, any shape.
        blocksize: weights that share a scale.
        quant_type: "nf4" or "fp4".
        quant_storage: the dtype as which the packed bytes are seen.

    Returns:
        Two weights a byte, the first in the upper half, [n, 1]; and the largest absolute weight of each block, float32.
    """
    from bitsandbytes.functional import get_4bit_type

    code, order = get_4bit_type(quant_type, device="cpu").sort()
    bounds = ((code[:-1] + code[1:]) / 2).tolist()
    flat = weight.reshape(-1)
    count, full = len(flat), len(flat) - len(flat) % blocksize
    packed = torch.empty(-(-count // 2), dtype=torch.uint8)
    largest = torch.empty(-(-count // blocksize))

    def quantize(first: int, last: int) -> None:
        rows = flat[first:last].to(torch.float32, copy=True).view(-1, min(blocksize, last - first))
        most, whole = rows.abs().amax(dim=-1), last <= full
        floor = most.clamp(min=1e-38)
        largest[first // blocksize :][: len(most)] = most if whole else floor
        # bitsandbytes divides a block that is not whole: the same but for the last bit.
        rows = rows.mul_((1.0 / floor)[:, None]) if whole else rows / floor[:, None]
        scaled = rows.clamp_(-1, 1).view(-1)
        if len(scaled) % 2:
            scaled = torch.nn.functional.pad(scaled, (0, 1))
        place, above = torch.zeros(len(scaled), dtype=torch.uint8), torch.empty(len(scaled), dtype=torch.bool)
        counted = above.view(torch.uint8)
        for bound in bounds:
            torch.gt(scaled, bound, out=above)
            place.add_(counted)
        if quant_type != "nf4":
            place = order[place.int()].to(torch.uint8)
        packed[first // 2 :][: len(place) // 2] = (place[::2] << 4) | place[1::2]

    size = PIECE - PIECE % blocksize
    pieces = [(first, min(first + size, full)) for first in range(0, full, size)]
    pieces += [(full, count)] if full < count else []
    num_threads = torch.get_num_threads()
    # Each worker with a thread of its own: operations this small, spread over threads, mostly wait for one another.
    with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(quantize, *zip(*pieces, strict=True)))
    torch.set_num_threads(num_threads)  # of threads to come
    return packed.view(quant_storage).unsqueeze(1), largest
