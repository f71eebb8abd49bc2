"""Devices that are not there: tensors that say they are elsewhere, hold no values, and refuse to be mixed.

What a CUDA build refuses is refused: tensors of different devices in one operation (but numbers, copies from one to
another, and indices on the CPU). Small tensors whose values follow from what the program said (token ids, positions)
keep them, so that the program goes its way; all others have shape, dtype and device alone, and who asks for a value of
theirs is given one by the `Audience`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
NAME = "pretend"
KNOWN = 2**16  # elements up to which values are kept
COPIES = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default}
ACROSS = COPIES | {aten.is_same_size.default}
_BACKWARDS = aten._scaled_dot_product_flash_attention_backward.default  # which no CPU has
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._unsafe_index.Tensor}

_setup_privateuseone_for_python_backend(NAME)


class Audience:
    """Sees what is done on pretended devices; here it keeps all values and says nothing."""

    keeps_values = True

    def ran(self, func: Any, given: list[Tensor], args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """An operation was asked for; `given` and the tensors in `out` are as the program sees them."""

    def waited(self, device: torch.device) -> None:
        """The host wants values, or hands some over, and waits until the device has done what it was given."""

    def value(self, dtype: torch.dtype, alone: bool) -> Any:
        """The value of an element that nobody knows; `alone`: a tensor's only one."""
        raise NotImplementedError


_audience = Audience()
_made: dict[str, Any] = {}
_working = set[torch.device]()  # devices that were given work since the host last waited for them


class Pretended(Tensor):
    """A tensor on a pretended device; `held` holds its values, or is a meta tensor where it has none."""

    held: Tensor
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Any) -> None:
        """As torch does, which does not know of what is held."""
        self.held = other.held
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]

    def tolist(self) -> Any:
        if self.device.type != "cpu":
            _wait(self.device)
        return _told(self.held)

    def numpy(self, *, force: bool = False) -> Any:
        if self.device.type != "cpu":
            raise TypeError(f"can't convert {self.device} device type tensor to numpy")
        if self.held.is_meta:
            return np.zeros(self.shape, dtype=torch.empty(0, dtype=self.dtype).numpy().dtype)
        return self.held.numpy(force=force)

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Pretended:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=device,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(func, args, kwargs or {})


class _Machine(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def tensors_in(x: Any) -> Iterator[Tensor]:
    """The tensors among an operation's arguments or results."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, (tuple, list)):
        for each in x:
            yield from tensors_in(each)
    elif isinstance(x, dict):
        yield from tensors_in(list(x.values()))


def _changed(change: Callable[[Tensor], Any], x: Any) -> Any:
    """The same arguments with other tensors; torch's own `tree_map` takes most of the time of a rehearsal."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, (tuple, list)):
        return type(x)([_changed(change, each) for each in x])
    if isinstance(x, dict):
        return {name: _changed(change, each) for name, each in x.items()}
    return x


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [*tensors_in(args), *tensors_in(kwargs)]
    asked = kwargs.get("device")
    where = torch.device(asked) if asked is not None else _common_device(func, given)
    ours = any(isinstance(x, Pretended) for x in given)
    if where.type == "meta" or (where.type == "cpu" and given and not ours):
        return func(*args, **kwargs)
    _tell_transfers(func, where, given, kwargs)
    own = {id(x.held): x for x in given if isinstance(x, Pretended)}
    bare, named = _changed(lambda x: x.held if isinstance(x, Pretended) else x, (args, kwargs))
    if asked is not None:
        named = {**named, "device": torch.device("cpu")}
    out = _compute(func, bare, named, own)
    if own and _reshapes(func):
        _reshape(func, args, kwargs)

    def wrapped(x: Tensor) -> Tensor:
        if where.type == "cpu" and not x.is_meta:
            return x
        return own[id(x)] if id(x) in own else Pretended(x, where)

    out = _changed(wrapped, out)
    _audience.ran(func, given, args, kwargs, out)
    return out


@cache
def _reshapes(func: Any) -> bool:
    return torch.Tag.inplace_view in func.tags


def _reshape(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Change the shape that a tensor shows, as torch's own wrappers do."""
    before = torch._C._meta_in_tls_dispatch_include()
    torch._C._set_meta_in_tls_dispatch_include(True)
    try:
        with no_dispatch():
            func(*args, **kwargs)
    finally:
        torch._C._set_meta_in_tls_dispatch_include(before)


def _tell_transfers(func: Any, where: torch.device, given: list[Tensor], kwargs: dict[str, Any]) -> None:
    """Looking at a value waits, and so does a copy to a device that is at work."""
    there = [x.device for x in given if x.device.type != "cpu"]
    if there and (func is aten._local_scalar_dense.default or where.type == "cpu"):
        _wait(there[0])
    elif where.type != "cpu" and func in COPIES and len(there) < len(given):
        if not kwargs.get("non_blocking") and where in _working:
            _wait(where)
    elif where.type != "cpu":
        _working.add(where)


def _wait(device: torch.device) -> None:
    _working.discard(device)
    _audience.waited(device)


def _common_device(func: Any, given: list[Tensor]) -> torch.device:
    """The one device of an operation's tensors; a copy lands on that of its first or last."""
    counted = [x for x in given if x.ndim or isinstance(x, Pretended)]
    if func in INDEXED:
        counted = [x for i, x in enumerate(counted) if i == 0 or isinstance(x, Pretended)]
    places = list(dict.fromkeys(x.device for x in counted))
    if len(places) > 1 and func not in ACROSS:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {places}")
    return places[0] if places else torch.device("cpu")


def _compute(func: Any, args: Any, kwargs: dict[str, Any], own: dict[int, Pretended]) -> Any:
    """With values where they are kept, else with shapes alone."""
    if _audience.keeps_values:
        return func(*args, **kwargs)
    if func in INDEXED:
        args = (args[0], _places(args[1]), *args[2:])
    flat = [*tensors_in(args), *tensors_in(kwargs)]
    if not flat and "device" in kwargs:
        shaped = func(*args, **{**kwargs, "device": torch.device("meta"), **_no_chance(kwargs)})
        return shaped if shaped.numel() > KNOWN else func(*args, **kwargs)
    if func is not _BACKWARDS and all(not x.is_meta and x.numel() <= KNOWN for x in flat):
        return _changed(lambda x: _shape(x) if x.numel() > KNOWN else x, func(*args, **kwargs))
    if func is aten._local_scalar_dense.default:
        return _audience.value(flat[0].dtype, True)
    shapes = {id(x): x if x.is_meta else _shape(x) for x in flat}
    for x in flat:
        if func._schema.is_mutable and x is flat[0] and not x.is_meta and id(x) in own:
            own[id(x)].held = shapes[id(x)]  # from now on its values are not known
            own[id(shapes[id(x)])] = own[id(x)]
    bare, named = _changed(lambda x: shapes[id(x)], (args, kwargs))
    if "device" in named:
        named = {**named, "device": torch.device("meta")}
    return _shaped(func, bare, named | _no_chance(named))


def _places(indices: Any) -> list[Any]:
    """Where known masks are true: how many that are decides a shape."""
    found: list[Any] = []
    for index in indices:
        known = index is not None and index.dtype == torch.bool and not index.is_meta
        found += index.nonzero().unbind(1) if known else [index]
    return found


def _shaped(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on meta tensors. What comes of one that makes a new tensor is remembered: layers are all alike."""
    if (kernel := _KERNELS.get(func.name())) is not None:
        return kernel(*args)
    schema = func._schema
    if schema.is_mutable or len(schema.returns) != 1 or schema.returns[0].alias_info is not None:
        return func(*args, **kwargs)
    key = f"{func}{_changed(_spelled, (args, kwargs))}"
    if (known := _made.get(key)) is None:
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or _place(out) in map(_place, tensors_in(args)):  # _unsafe_view is a view
            return out
        known = _made[key] = (out.size(), out.stride(), out.dtype)
        return out
    return torch.empty_strided(known[0], known[1], dtype=known[2], device="meta")


def _int8_quantized(x: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    """bitsandbytes' own rule wants to know how many columns have outliers: none here."""
    columns = x.new_empty(0, dtype=torch.int64) if threshold else None
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[:-1].numel(), dtype=torch.float32), columns


def _int8_product(x: Tensor, _: Tensor, weight: Tensor, *__: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(*x.shape[:-1], weight.shape[0]), x.new_empty(0)


_KERNELS: dict[str, Callable[..., Any]] = {
    "bitsandbytes::int8_vectorwise_quant": _int8_quantized,
    "bitsandbytes::int8_mixed_scaled_mm": _int8_product,
    "mkldnn::_reorder_linear_weight": lambda weight, *_: torch.empty_like(weight),
}
"""For operations that have no rule for tensors without values, or one that does not serve."""


def _place(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _spelled(x: Tensor) -> Any:
    return (*x.size(), *x.stride(), x.dtype)


def _shape(x: Tensor) -> Tensor:
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="meta")


def _no_chance(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"generator": None} if "generator" in kwargs else {}


def _told(held: Tensor) -> Any:
    if not held.is_meta:
        return held.tolist()
    if held.ndim == 0:
        return _audience.value(held.dtype, False)
    return [_told(row) for row in held]


@torch.library.impl("aten::empty_strided", "PrivateUse1")
def _empty_strided(size: Any, stride: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    return Pretended(torch.empty_strided(size, stride, dtype=dtype), torch.device(device))


@torch.library.impl("aten::_copy_from", "PrivateUse1")
def _copy_from(source: Tensor, to: Any, non_blocking: bool = False) -> Tensor:
    """`torch.tensor` builds on the CPU and copies below Python's dispatch."""
    to.held.copy_(getattr(source, "held", source))
    if not non_blocking and source.numel() and to.device in _working and not isinstance(source, Pretended):
        _wait(to.device)
    return to


# What arrives below Python's dispatch: factories in threads that do not know of the devices.
_everything = torch.library.Library("_", "IMPL")
_everything.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")


class _Whole(torch.autograd.Function):
    """A kernel of its own on a GPU, forwards and backwards; torch would take it apart for a device it does not know."""

    @staticmethod
    def forward(ctx: Any, func: Any, options: dict[str, Any], *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            out = func(*args, **options)
        ctx.causal = bool(options.get("is_causal") or args[5:6] == (True,))
        ctx.places = [isinstance(x, Tensor) for x in args]
        ctx.attends = func is aten.scaled_dot_product_attention.default
        ctx.save_for_backward(out, *tensors_in(args))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        out, *given = ctx.saved_tensors
        made: list[Any] = [torch.empty_like(x) for x in given] if not ctx.attends else []
        if ctx.attends:
            q, k, v, *masks = given
            sums = q.new_empty(q.shape[:-1], dtype=torch.float32)
            lengths = q.shape[-2], k.shape[-2]
            found = _BACKWARDS(grads[0], q, k, v, out, sums, None, None, *lengths, 0.0, ctx.causal, sums, sums)
            made = [*found, *[None] * len(masks)]
        return None, None, *(made.pop(0) if place else None for place in ctx.places)


def _whole(func: Any) -> None:
    name = func.name().removesuffix(".default")

    @torch.library.impl(name, "PrivateUse1")
    def _never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("answered above")

    @torch.library.impl(name, "AutogradPrivateUse1")
    def _learned(*args: Any, **kwargs: Any) -> Any:
        return _Whole.apply(func, kwargs, *args)


for _func in (aten.scaled_dot_product_attention.default, aten.rms_norm.default):
    _whole(_func)


@contextmanager
def pretended_devices(audience: Audience | None = None) -> Iterator[None]:
    """Within, "pretend:0", "pretend:1", ... are devices."""
    global _audience
    before, _audience = _audience, audience or Audience()
    stream = SimpleNamespace(synchronize=lambda: 0)
    try:
        with patch.object(torch.accelerator, "current_stream", lambda device=None: stream), _Machine():
            yield
    finally:
        _audience = before
