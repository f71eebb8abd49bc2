"""Two devices where there is none: tensors that say they are elsewhere, compute here, and refuse to be mixed.

What a CUDA build refuses is refused: tensors of different devices in one operation (but numbers, copies from one to
another, and indices on the CPU). Streams and memory are not pretended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
NAME = "pretend"
WAITS: list[str] = []  # what made the host wait for a pretended device
WORKING: set[torch.device] = set()  # devices that were given work since the host last waited for them
ACROSS = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default, aten.is_same_size.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._unsafe_index.Tensor}

_setup_privateuseone_for_python_backend(NAME)


class Pretended(Tensor):
    """A tensor on a pretended device; `held` holds its values."""

    held: Tensor
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        _wait("tolist", self.device)
        return self.held.tolist()

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> "Pretended":
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


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    counted = [x for x in given if x.ndim or isinstance(x, Pretended)]
    if func in INDEXED:
        counted = [x for i, x in enumerate(counted) if i == 0 or isinstance(x, Pretended)]
    places = list(dict.fromkeys(x.device for x in counted))
    asked = kwargs.get("device")
    if len(places) > 1 and func not in ACROSS:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {places}")
    where = torch.device(asked) if asked is not None else places[0] if places else torch.device("cpu")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is aten._local_scalar_dense.default or (where.type == "cpu" and places and places[0].type != "cpu"):
        _wait(str(func), places[0])
    elif where.type != "cpu":
        sent = func in ACROSS and any(x.device.type == "cpu" for x in given)
        if sent and not kwargs.get("non_blocking") and where in WORKING:
            _wait(str(func), where)
        elif not sent:
            WORKING.add(where)
    own = {id(x.held): x for x in given if isinstance(x, Pretended)}
    bare, named = tree_map(lambda x: x.held if isinstance(x, Pretended) else x, (args, kwargs))
    out = func(*bare, **named)

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor) or where.type == "cpu":
            return x
        return own[id(x)] if id(x) in own else Pretended(x, where)

    return tree_map(wrapped, out)


def _wait(why: str, device: torch.device) -> None:
    """The host looks at what a device holds, or sends it something by a copy that waits for all that it was given."""
    WAITS.append(why)
    WORKING.discard(device)


@torch.library.impl("aten::empty_strided", "PrivateUse1")
def _empty_strided(size: Any, stride: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    return Pretended(torch.empty_strided(size, stride, dtype=dtype), torch.device(device))


@torch.library.impl("aten::_copy_from", "PrivateUse1")
def _copy_from(source: Tensor, to: Any, non_blocking: bool = False) -> Tensor:
    """`torch.tensor` builds on the CPU and copies below Python's dispatch."""
    if not non_blocking and to.device in WORKING and not isinstance(source, Pretended):
        _wait("torch.tensor", to.device)
    to.held.copy_(getattr(source, "held", source))
    return to


@contextmanager
def pretended_devices(monkeypatch: Any) -> Iterator[None]:
    """Within, "pretend:0" and "pretend:1" are devices."""
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device=None: SimpleNamespace(synchronize=lambda: 0))
    with _Machine():
        yield


def put(module: Any, device: str) -> None:
    """Move a module's parameters and buffers to a pretended device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_on(parameter.detach(), device), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _on(buffer, device)


def _on(tensor: Tensor, device: str) -> Tensor:
    return tensor if isinstance(tensor, Pretended) else Pretended(tensor, torch.device(device))
