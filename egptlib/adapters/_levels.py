"""The adapters: from the drafter's hidden states (and others) to states the target's lm head can read.

Rows are as in the store: row t stands before token t and predicts it. A level that aligns gives, at row t, its idea of
the target's row t. A head that runs ahead gives at row t its idea of the target's row t + 1, and from there goes on
with its own predictions: `ahead(...)` returns them by depth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from egptlib.adapters._layers import AttentionLayer, Before, Bottleneck, Cache, Layer, WideBottleneck, moved
from egptlib.adapters._settings import DEFAULTS, AdapterSettings
from egptlib.models import spread

States = Float[Tensor, "batch time hidden"]


class Adapter(nn.Module, ABC):
    """What all levels have in common.

    Attributes:
        settings: what it was built from.
        inputs: the fields of a stored sample that `forward` takes, in order.
        runs_ahead: whether row t of the output stands for row t + 1.
        drafter_along: of a head that runs ahead: whether it takes the drafter's states of rows after the anchor
            as well, that is, whether the drafter reads along while it drafts.
        drafter_shift: of a head: the drafter's row t + drafter_shift stands in place t of what it is given. With 1,
            it has read token t, which is known when the head is asked for row t + 1.
        by_position: whether every row is treated by itself, so that padding need not be computed.
    """

    inputs: ClassVar[tuple[str, ...]] = ("drafter_hidden",)
    runs_ahead: ClassVar[bool] = False
    drafter_along: ClassVar[bool] = False
    by_position: ClassVar[bool] = False

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__()
        self.settings = settings
        self._read_by: tuple[Tensor, Tensor, Tensor] | None = None

    def read_by(self, lm_head: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rows of the target's lm head that read its states, and which tokens they are for; None: all."""
        if not self.settings.drafted:
            return lm_head, None
        if self._read_by is None or self._read_by[0] is not lm_head:
            tokens = torch.tensor(self.settings.drafted, device=lm_head.device)
            self._read_by = lm_head, lm_head[tokens], tokens  # picked once: a copy at every step would cost more
        return self._read_by[1:]

    def check_widths(self, drafter: int, target: int) -> None:
        """Raise ValueError unless it was made for states of these widths; the drafter's count where they are read."""
        s = self.settings
        if target != s.hidden_size or ("drafter_hidden" in self.inputs and drafter != s.input_size):
            raise ValueError(
                f"adapter {self.level}: made for {s.input_size} values of the drafter and {s.hidden_size} of the "
                f"target (drafter_size, hidden_size); these have {drafter} and {target}"
            )

    @property
    def level(self) -> str:
        return self.settings.level

    @property
    def drafter_shift(self) -> int:
        return int(self.drafter_along or self.settings.reads_last)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


CLASSES: dict[str, type[Adapter]] = {}
"""By level; filled by `register`."""


def register(level: str, **defaults: Any) -> Callable[[type[Adapter]], type[Adapter]]:
    """Make a class known as an adapter level: `create_adapter`, training, tables and `load_adapter` take it by name.

        @register("L7", num_blocks=2)
        class MyAdapter(Adapter): ...

    Args:
        level: its name; one class may have several, with other defaults.
        defaults: fields of `AdapterSettings` that it starts from.

    Raises:
        ValueError: the name is another class's, or a default does not fit.
        TypeError: a default is no field of `AdapterSettings`, or the class is no `Adapter`.
    """
    if level in CLASSES or level.startswith("L6"):  # L6 is LoRA on the drafter itself
        raise ValueError(f"adapter level {level!r}: there is one already; take another name")
    AdapterSettings(level, **defaults)

    def add(adapter: type[Adapter]) -> type[Adapter]:
        if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
            raise TypeError(f"adapter level {level!r}: expected a class that is an Adapter, found {adapter!r:.50}")
        CLASSES[level], DEFAULTS[level] = adapter, defaults
        return adapter

    return add


@register("L2", num_blocks=3)
@register("L1")
class BottleneckAdapter(Adapter):
    """L1 and L2: bottlenecks, then a norm. With s = 0 it is the norm alone."""

    by_position = True
    block: ClassVar[type[Bottleneck | WideBottleneck]] = Bottleneck

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        s = settings
        self.bridge = _bridge(s)
        blocks = (self.block(s.hidden_size, s.bottleneck, s.scale, s.dropout) for _ in range(s.num_blocks))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(s.hidden_size)

    def forward(self, drafter_hidden: Float[Tensor, "batch time drafter"]) -> States:
        return self.norm(self.blocks(self.bridge(drafter_hidden)))


@register("L3", bottleneck=1024, num_blocks=2)
class WideAdapter(BottleneckAdapter):
    """L3: a norm, wide bottlenecks, a norm."""

    block = WideBottleneck

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        self.input_norm = nn.LayerNorm(settings.hidden_size)

    def forward(self, drafter_hidden: Float[Tensor, "batch time drafter"]) -> States:
        return self.norm(self.blocks(self.input_norm(self.bridge(drafter_hidden))))


@register("L4")
class AttentionAdapter(Adapter):
    """L4: attention over the answer so far; h + s (o - h)."""

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        self.bridge = _bridge(settings)
        self.layers = _layers(settings)
        self.output_norm = nn.LayerNorm(settings.hidden_size)
        self.output = nn.Linear(settings.hidden_size, settings.hidden_size)
        self.scale = nn.Parameter(torch.tensor(settings.scale))

    def forward(
        self,
        drafter_hidden: Float[Tensor, "batch time drafter"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> States:
        """`mask` is needed where rows are padded and the level is not causal."""
        h = x = self.bridge(drafter_hidden)
        for layer in self.layers:
            x = layer(x, mask)
        return h + self.scale * (self.output(self.output_norm(x)) - h)


class Head(Adapter):
    """A level that predicts the rows after the one it is given.

    Attributes:
        reads_prompt: whether it also takes the rows of the prompt, which stand before those of the answer.
    """

    runs_ahead = True
    reads_prompt: ClassVar[bool] = False

    def look_up(self, token_ids: Int[Tensor, " rows"], lm_head: Tensor) -> Float[Tensor, "rows hidden"]:
        """What stands for tokens in its input; `lm_head` is the target's."""
        return token_states(token_ids[None], lm_head)[0]

    def logits(self, states: Float[Tensor, "*rows hidden"], lm_head: Tensor) -> Float[Tensor, "*rows vocab"]:
        """What predicted states say in the target's ids, -inf at those that it does not draft; `lm_head` is the
        target's."""
        rows, tokens = self.read_by(lm_head)
        said = nn.functional.linear(states.to(rows.dtype), rows)
        return said if tokens is None else spread(said, tokens, len(lm_head))

    def check_room(self, time: int, depths: int) -> None:
        """ValueError where `depths` predictions behind `time` rows are more positions than it was built for."""
        if time + depths - 1 > self.settings.max_positions:
            raise ValueError(
                f"{self.level}: {time} positions and {depths - 1} ahead of them; "
                f"it was built for {self.settings.max_positions}"
            )

    def forward(self, *given: Tensor) -> Tensor:
        """Predict row t + 1 from the given rows up to t (at widths as in `inputs`): [b, t, hidden]."""
        return self.ahead(*given, depths=1)[0]

    @abstractmethod
    def ahead(self, *given: Tensor, depths: int, before: Before | None = None) -> list[Tensor]:
        """Run ahead from every row at once.

        Args:
            given: tensors [b, t, ...] as named by `inputs`.
            depths: how far.
            before: what prompts left.

        Returns:
            For each depth d = 0, 1, ... a tensor [b, t, hidden]: at [:, i] the predicted target state of row
            i + 1 + d, when the given rows up to i are known. Where i + d is beyond the given rows, and the head
            takes something of that row, the value means nothing.

        Raises:
            ValueError: more positions than the level has learned.
        """


class SteppingHead(Head):
    """A head that goes on from its own last prediction, one row after the other.

    Attributes:
        layers: what `_enter` leads into, each an `AttentionLayer`; a single one, whose positions are relative, where
            the head reads the prompt.
    """

    layers: nn.ModuleList

    def _placed(self, x: Tensor, places: Tensor) -> Tensor:
        """Rows [b, t, ...] with their positions, int64 [t], in them; as they are where the layers see to that."""
        return x

    @abstractmethod
    def _enter(self, given: Sequence[Tensor], depth: int, fed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what a depth starts from and what goes into the layers (positions not yet added).

        Args:
            given: what `forward` was given.
            depth: how many positions after the anchor.
            fed: what `_leave` returned last at the depth before; None at depth 0.
        """

    @abstractmethod
    def _leave(self, start: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted state, and what the next depth is fed with."""

    def before(self, valid: Tensor, *given: Tensor) -> Before:
        """What rows of prompts [b, P, ...] leave to those behind them; `valid` [b, P], padding on the left."""
        (layer,) = self.layers
        assert isinstance(layer, AttentionLayer)
        x = self._enter(given, 0, None)[1]
        _, keys, values = layer.heads(x, torch.arange(x.shape[1], device=x.device))
        return Before(keys, values, valid)

    def ahead(self, *given: Tensor, depths: int, before: Before | None = None) -> list[Tensor]:
        time = given[0].shape[1]
        self.check_room(time, depths)
        caches: list[Cache] = [[] for _ in self.layers]
        predicted: list[Tensor] = []
        fed: Tensor | None = None
        for depth in range(depths):
            start, x = self._enter(given, depth, fed)
            x = self._placed(x, torch.arange(depth, depth + time, device=x.device))
            for layer, cache in zip(self.layers, caches, strict=True):
                x = layer(x, cache=cache, before=before)
            state, fed = self._leave(start, x)
            predicted.append(state)
        return predicted


class LearnedHead(SteppingHead):
    """A head of this package's own layers, with learned positions, and a step from h to h + s (o - h)."""

    scale: nn.Parameter

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        self.positions = nn.Parameter(torch.randn(1, settings.max_positions, settings.hidden_size) * 0.02)
        self.layers = _layers(settings)
        self.output_norm = nn.LayerNorm(settings.hidden_size)
        self.output = nn.Linear(settings.hidden_size, settings.hidden_size)

    def _placed(self, x: Tensor, places: Tensor) -> Tensor:
        return x + self.positions[:, places]

    def _leave(self, start: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        state = start + self.scale * (self.output(self.output_norm(x)) - start)
        return state, state


@register("L5")
class EagleHead(LearnedHead):
    """L5, and B1 on the target's own states: h + s (o - h), after EAGLE (Li et al. 2024) without token embeddings."""

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        self.bridge = _bridge(settings)
        self.input_norm = nn.LayerNorm(settings.hidden_size)
        self.scale = nn.Parameter(torch.tensor(settings.scale))

    def _enter(self, given: Sequence[Tensor], depth: int, fed: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self.bridge(given[0]) if fed is None else fed
        return h, self.input_norm(h)


@register("B1")
class TargetHead(EagleHead):
    """B1: L5 fed with the target's own states: what is possible without a modality gap."""

    inputs = ("target_hidden",)

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        self.bridge = nn.Identity()  # whatever the drafter's width


@register("L5F")
class FusedHead(LearnedHead):
    """L5F: drafter and target states, gated; the drafter reads along while the head runs ahead.

    Row t takes the drafter's row t and the target's row t as the earlier checkpoints did; what is given as the
    drafter's row is up to the caller. This library gives the drafter's row t + 1 beside the target's row t
    (`drafter_shift`).
    """

    inputs = ("drafter_hidden", "target_hidden")
    drafter_along = True

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        size = settings.hidden_size
        self.bridge = _bridge(settings)
        self.gate = nn.Linear(2 * size, size)
        self.fusion = nn.Linear(2 * size, size)
        self.input_norm = nn.LayerNorm(size)
        self.scale = nn.Parameter(torch.tensor(settings.scale))

    def _enter(self, given: Sequence[Tensor], depth: int, fed: Tensor | None) -> tuple[Tensor, Tensor]:
        drafter, target = self.bridge(moved(given[0], depth)), given[1] if fed is None else fed
        both = torch.cat([drafter, target], dim=-1)  # [b, t, 2 hidden]
        gate = self.gate(both).sigmoid()
        return target, self.input_norm(gate * drafter + (1 - gate) * target + self.fusion(both))


@register("E3")
class LayersHead(LearnedHead):
    """E3: states of a low, a middle and a high layer of the target, fused, and the token that follows each.

    After EAGLE-3 (Li et al. 2025): the fused feature stands only at rows the target has read; after the anchor the
    layer's own output takes its place, in training as in drafting. The token of a row is looked up in the target's
    lm head (frozen, saved with the states), where EAGLE-3 takes the target's input embedding.
    """

    inputs = ("target_layers", "token_states")

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        size = settings.hidden_size
        self.fuse = nn.Linear(settings.num_source_layers * size, size, bias=False)
        self.state_norm = nn.LayerNorm(size)
        self.token_norm = nn.LayerNorm(size)
        self.join = nn.Linear(2 * size, size)

    def _enter(self, given: Sequence[Tensor], depth: int, fed: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self.fuse(given[0].flatten(-2)) if fed is None else fed  # [b, t, layers, hidden] -> [b, t, hidden]
        token = moved(given[1], depth)
        x = h + self.join(torch.cat([self.token_norm(token), self.state_norm(h)], dim=-1))
        return h, x

    def _leave(self, start: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.output(self.output_norm(x)), x


def token_states(token_ids: Int[Tensor, "batch time"], lm_head: Float[Tensor, "vocab hidden"]) -> States:
    """Look tokens up in the rows of an lm head, scaled to a root mean square of 1; padding (-1) gives token 0's."""
    rows = lm_head[token_ids.clamp(min=0).long()]
    return rows / rows.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-6)


def _bridge(settings: AdapterSettings) -> nn.Module:
    """What leads from the drafter's width to the adapter's: nothing where they are one, or a matrix."""
    if settings.input_size == settings.hidden_size:
        return nn.Identity()
    bridge = nn.Linear(settings.input_size, settings.hidden_size, bias=False)
    nn.init.eye_(bridge.weight)  # what both widths have is passed on as it is
    return bridge


def _layers(settings: AdapterSettings) -> nn.ModuleList:
    s = settings
    return nn.ModuleList(Layer(s.hidden_size, s.num_heads, s.ffn_dim, s.dropout, s.causal) for _ in range(s.num_layers))
