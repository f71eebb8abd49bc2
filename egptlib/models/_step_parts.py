"""Where the time of one pass goes: products of attention and of the MLP, attention itself, lm head, all the rest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from egptlib._clock import synchronize
from egptlib.models._interface import Model
from egptlib.models._lean import LeanLayer, LeanLlama
from egptlib.models._state import State

STEP_PARTS = ("attention products", "attention", "MLP products", "lm head", "choice", "rest")


def step_parts(
    model: Model, state: State, repeats: int = 40, in_a_row: int = 1, between: Callable[[], Any] | None = None
) -> dict[str, float]:
    """Seconds of a pass over one token after `state`, by part; they add up to the whole pass.

    Parts: products with q, k, v and output weights; attention over the cache (with rotation and cache where the model
    keeps transformers' own pass); products of the MLP; the lm head; choosing the token, on the host; and the rest:
    norms, activations, additions and Python. Each is the mean over the middle half of the repeats, those whose whole
    pass was neither fast nor slow. On a GPU each part is waited for, which takes longer than a pass undisturbed.

    Args:
        state: it is left where it was.
        in_a_row: passes that follow one another in each repeat; the figures are those of one pass.
        between: other work before each repeat, so that caches hold what they hold in real use.

    Raises:
        ValueError: fewer than four repeats.
    """
    if repeats < 4:
        raise ValueError(f"step_parts: expected at least 4 repeats, found {repeats}")
    length, device = state.length, model.device
    token = torch.full((1, 1), 3, device=device)
    passes: list[dict[str, float]] = []
    clock = _Clock(device)
    if state.lean is not None:
        state = replace(state, lean=_ClockedLean(state.lean, clock))
    with _hooked(model, state, clock), torch.no_grad():
        for _ in range(repeats + 3):
            if between is not None:
                between()
            clock.seconds, clock.inside = dict.fromkeys(STEP_PARTS, 0.0), 0.0
            start = clock.now()
            for _ in range(in_a_row):
                logits = model.step(token, state).logits
                clock.timed("choice", int)(logits[0, -1].argmax())
            whole = clock.now() - start
            model.rollback(state, length)
            found = clock.seconds
            found["attention"] -= clock.inside
            found["rest"] = whole - sum(found.values())
            passes.append({part: seconds / in_a_row for part, seconds in found.items()})
    ordered = sorted(passes[3:], key=lambda parts: sum(parts.values()))
    middle = ordered[len(ordered) // 4 : -(len(ordered) // 4)]
    return {part: statistics.fmean(parts[part] for parts in middle) for part in STEP_PARTS}


class _Clock:
    """Adds up seconds by part; `inside` are those spent in the products of a module that is timed whole."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self.inside = device, dict[str, float](), 0.0

    def now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            out = function(*args, **kwargs)
            self.seconds[part] += self.now() - start
            return out

        return call

    def hooks(self, part: str, module: nn.Module, nested: bool = False) -> list[Any]:
        starts: list[float] = []

        def before(*_: Any) -> None:
            starts.append(self.now())

        def after(*_: Any) -> None:
            seconds = self.now() - starts.pop()
            self.seconds[part] += seconds
            if nested:
                self.inside += seconds

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


class _ClockedLean(LeanLlama):
    """A lean pass over the same weights whose parts are timed."""

    def __init__(self, lean: LeanLlama, clock: _Clock):
        vars(self).update(vars(lean))
        self._timed_attention = clock.timed("attention", super()._attend)
        self.layers = [self._clocked(layer, clock.timed) for layer in lean.layers]

    @staticmethod
    def _clocked(layer: LeanLayer, timed: Callable[..., Any]) -> LeanLayer:
        attention, mlp = "attention products", "MLP products"
        layer = layer._replace(qkv=timed(attention, layer.qkv), out=timed(attention, layer.out))
        return layer._replace(gate_up=timed(mlp, layer.gate_up), down=timed(mlp, layer.down))

    def _attend(self, *given: Any) -> Tensor:
        return self._timed_attention(*given)


@contextmanager
def _hooked(model: Model, state: State, clock: _Clock) -> Iterator[None]:
    """Time the modules that are called: the lm head, and those of the layers where the pass is transformers' own."""
    hooks = clock.hooks("lm head", model.lm_head)
    for layer in model.language_model.layers if state.lean is None else ():  # type: ignore[union-attr]
        hooks += clock.hooks("attention", layer.self_attn)
        for part, names, parent, nested in (
            ("attention products", ("q_proj", "k_proj", "v_proj", "o_proj"), layer.self_attn, True),
            ("MLP products", ("gate_proj", "up_proj", "down_proj"), layer.mlp, False),
        ):
            for name in names:
                hooks += clock.hooks(part, getattr(parent, name), nested)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
