"""Telling weights apart by a hash over some of their values."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

_NOTE = "digest_when_loaded"


def note_loaded(module: nn.Module) -> None:
    """Note on each quantized weight what it held when it was loaded: that is its fingerprint from then on.

    bitsandbytes lays 4-bit weights out anew in their first pass on a CPU with AVX512-BF16; they stay what they are.
    """
    for parameter in module.parameters():
        if not parameter.is_floating_point():
            setattr(parameter, _NOTE, _digest(parameter))


def fingerprint(module: Any) -> str:
    """Hash over up to 512 values of every parameter: tells retrained, requantized or recast weights apart."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        digest.update(f"{name} ".encode() + (getattr(parameter, _NOTE, None) or _digest(parameter)))
    return digest.hexdigest()[:12]


def _digest(parameter: Tensor) -> bytes:
    """Shape, dtype and values."""
    values = parameter.detach().flatten()
    values = values[:: max(1, values.numel() // 512)]
    told = f"{tuple(parameter.shape)} {parameter.dtype}".encode()
    return told + values.cpu().contiguous().view(torch.uint8).numpy().tobytes()
