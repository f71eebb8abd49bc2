"""Weights to 4 bit on a CPU: the bytes of bitsandbytes, in a third of its processor time and a piece at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

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
