"""What a program asks of its devices: arithmetic, bytes, launches, waits, and the most memory at once."""

from __future__ import annotations

import sys
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

import egptlib
from egptlib.rehearsal._device import COPIES, Audience, Pretended, tensors_in

aten = torch.ops.aten
BLOCK = 512  # bytes: CUDA's allocator gives no less, and whole ones
ROWS_READ = {aten.embedding, aten.index_select, aten.gather, aten.index}  # of their first tensor only what comes out
ROOT, HERE = str(Path(egptlib.__file__).parent), str(Path(__file__).parent)
TOKEN = 300  # what a model is told to have said, where nobody says otherwise


@dataclass
class Count:
    """What was asked of one device in one stage.

    Attributes:
        flops: by the dtype of the operands, of matrix products, convolutions and attention: two a multiplication.
            Causal attention counts half.
        moved: bytes that have to come from or go to the device's memory whatever the kernels are like: of each
            operation those of its operands that were there before the stage began, i.e. weights and caches.
        launches: kernels, one an operation: the fewest that torch without a compiler can do with.
        waits: where in our code the host waited for the device, to get values or to hand some over to a device that
            was at work: "file:line" -> how often.
        peak: most bytes alive at once during the stage, all that was there before included.
        at: the line of our code that asked for the last of them.
    """

    flops: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    moved: int = 0
    launches: int = 0
    waits: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    peak: int = 0
    at: str = "?"

    def see(self, alive: int) -> None:
        if alive > self.peak:
            self.peak, self.at = alive, our_line()


class Tally(Audience):
    """Counts by stage and device; keeps no values.

    Attributes:
        stages: name -> device -> what was counted.
        alive: device -> bytes alive now.
    """

    keeps_values = False

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, Count]] = {}
        self.alive: dict[str, int] = defaultdict(int)
        self._tokens: Iterator[int] = repeat(TOKEN)
        self._stage, self._number = "", TOKEN
        self._sizes: dict[int, int] = {}  # of the storages alive
        self._old: set[int] = set()  # those that were there when the stage began

    @contextmanager
    def stage(self, name: str, tokens: Iterator[int] | None = None, number: int = TOKEN) -> Iterator[None]:
        """What is counted within belongs to this stage.

        Args:
            tokens: what models say there, one after the other; None: always the same, so that every draft is accepted.
            number: what a sum or a place comes to that nobody knows, such as the length of a common beginning.
        """
        before = self._stage, self._tokens, self._number, self._old
        self._stage, self._tokens, self._number, self._old = name, tokens or repeat(number), number, set(self._sizes)
        for device, size in self.alive.items():
            self._count(device).see(size)
        try:
            yield
        finally:
            self._stage, self._tokens, self._number, self._old = before

    def ran(self, func: Any, given: list[Tensor], args: Any, kwargs: dict[str, Any], out: Any) -> None:
        made = [x for x in tensors_in(out) if isinstance(x, Pretended)]
        holders = [x for x in given if isinstance(x, Pretended)]
        if not made or (func in COPIES and not holders):
            return
        device = str(made[0].device)
        known = {_storage(x) for x in holders}
        new = [x for x in made if _storage(x) not in known]
        for x in new:
            self._take(x, device)
        name = func.overloadpacket
        if (not holders and "empty" in func.name()) or (not new and not func._schema.is_mutable):
            return  # nothing is computed: room is taken, or seen otherwise
        count = self._count(device)
        count.launches += 1
        for dtype, flops in _flops(func, args, kwargs, made[0]).items():
            count.flops[dtype] += flops
        for i, x in enumerate(holders):
            if _storage(x) in self._old and str(x.device) == device:
                count.moved += made[0].nbytes if i == 0 and name in ROWS_READ else min(x.nbytes, _room(x))
        if func.name() == "bitsandbytes::int8_vectorwise_quant" and len(args) > 1 and args[1]:
            count.waits[our_line()] += 1  # whether there are outliers
        self._beside(func, args, device)

    def waited(self, device: torch.device) -> None:
        self._count(str(device)).waits[our_line()] += 1

    def value(self, dtype: torch.dtype, alone: bool) -> Any:
        if dtype == torch.bool:
            return True
        if dtype.is_floating_point:
            return 0.5
        return self._number if alone and self._number != TOKEN else next(self._tokens)

    def _count(self, device: str) -> Count:
        return self.stages.setdefault(self._stage, {}).setdefault(device, Count())

    def _take(self, x: Pretended, device: str) -> None:
        storage = x.held.untyped_storage()
        if id(storage) in self._sizes or (size := storage.nbytes()) == 0:
            return
        size = -(-size // BLOCK) * BLOCK
        self._sizes[id(storage)] = size
        weakref.finalize(storage, self._give_back, id(storage), device)
        self._grow(device, size)

    def _give_back(self, storage: int, device: str) -> None:
        self.alive[device] -= self._sizes.pop(storage)
        self._old.discard(storage)

    def _grow(self, device: str, size: int) -> None:
        self.alive[device] += size
        self._count(device).see(self.alive[device])

    def _beside(self, func: Any, args: Any, device: str) -> None:
        """Room that a kernel takes for itself while it runs."""
        size = sum(prod(shape) * dtype.itemsize for shape, dtype in scratch(func, args, device))
        if size:
            self._grow(device, size)
            self.alive[device] -= size


def scratch(func: Any, args: Any, device: str) -> list[tuple[Any, torch.dtype]]:
    """What bitsandbytes' kernels allocate besides their result, as shapes and dtypes.

    From some number of tokens on (16 to 1,536, by card and shape; on a CPU always) a 4-bit product first makes a 16-bit
    copy of the weight; an 8-bit one has its result as 32-bit integers first.
    """
    name = func.name()
    if name == "bitsandbytes::gemm_4bit" and (device == "cpu" or prod(args[0].shape[:-1]) > 16):
        return [(args[2], args[0].dtype)]
    if name == "bitsandbytes::int8_mixed_scaled_mm":
        return [((args[0].shape[0], args[2].shape[0]), torch.int32)]
    return []


def _flops(func: Any, args: Any, kwargs: dict[str, Any], out: Tensor) -> dict[str, float]:
    name = func.name().split(".")[0]
    if name == "bitsandbytes::gemm_4bit":
        return {_dtype(args[0]): 2 * args[0].numel() * args[2][0]}
    if name == "bitsandbytes::int8_mixed_scaled_mm":
        return {"int8": 2 * args[1].numel() * args[2].shape[0]}
    if name == "aten::scaled_dot_product_attention":
        q, k, v = args[:3]
        causal = kwargs.get("is_causal") or (len(args) > 5 and args[5])
        return {_dtype(q): sdpa_flop_count(q.shape, k.shape, v.shape) / (2 if causal else 1)}
    if func.overloadpacket in flop_registry:
        share = 0.5 if name == "aten::_scaled_dot_product_flash_attention_backward" and args[11] else 1
        dtypes = {x.dtype for x in tensors_in(args[:4])}
        if len(dtypes) > 1:
            raise RuntimeError(f"{func}: expected operands of one dtype, found {', '.join(sorted(map(str, dtypes)))}")
        return {_dtype(args[1]): share * flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)}
    return {}


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _storage(x: Pretended) -> int:
    return id(x.held.untyped_storage())


def _room(x: Pretended) -> int:
    return x.held.untyped_storage().nbytes()


def our_line() -> str:
    """The innermost line of this package that is being run, but for the rehearsal's own."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and not name.startswith(HERE):
            return f"egptlib{name[len(ROOT) :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
