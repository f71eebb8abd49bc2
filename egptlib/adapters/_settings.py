"""What decides the shape of an adapter: one record of settings for all levels, and each level's own defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from egptlib._whole import check_fields, whole_numbers


@dataclass(frozen=True)
class AdapterSettings:
    """Everything an adapter is built from; saved beside its weights.

    Attributes:
        level: L1, L2, L3, L4, L5, L5F, B1, E3, E3S, DF, or one added with `register`.
        hidden_size: width of the target's states, in which the adapter works.
        drafter_size: width of the drafter's; None when it is the same.
        bottleneck: width inside a bottleneck (L1 to L3).
        num_blocks: bottlenecks one after the other (L1 to L3).
        num_layers: attention layers (L4 and above).
        num_heads: attention heads.
        ffn_dim: width inside a layer's feed-forward part.
        max_positions: longest answer a level with learned positions takes.
        dropout: share dropped in training.
        scale: start of the learned scalar s before what is added to the input.
        causal: whether a level that attends over positions sees only those before. False is what the earlier L4
            did, and what no drafter can do (findings C19).
        num_source_layers: layers of the target that E3, E3S and DF fuse.
        source_layers: their numbers, where they are known: those of the samples it was trained on.
        num_kv_heads: of E3S: heads of keys and values; as many as `num_heads` when left out.
        rope_theta, norm_eps: of E3S and DF: base of their rotary positions, and what their norms add to a mean square.
        norm_before_residual: of E3S: whether its layer adds to the normed state, or to the state as it came.
        draft_vocab, target_vocab: of an E3S that was published with its own lm head and embeddings: tokens that it
            writes, and that it reads. 0: it reads and writes through the target's lm head.
        drafted: of a head: the target's tokens that it drafts, ascending, where it leaves out the rare ones of a large
            vocabulary; (): all of them.
        reads_last: of L5: whether the drafter has read the last known token when L5 runs ahead from it, so that its
            row t + 1 stands in place t, as in L5F. False is the earlier L5, which knows row t alone.
    """

    level: str
    hidden_size: int = 4096
    drafter_size: int | None = None
    bottleneck: int = 256
    num_blocks: int = 1
    num_layers: int = 1
    num_heads: int = 8
    ffn_dim: int = 2048
    max_positions: int = 512
    dropout: float = 0.1
    scale: float = 0.1
    causal: bool = True
    num_source_layers: int = 3
    source_layers: tuple[int, ...] = ()
    num_kv_heads: int | None = None
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    norm_before_residual: bool = False
    draft_vocab: int = 0
    target_vocab: int = 0
    drafted: tuple[int, ...] = ()
    reads_last: bool = False

    def __post_init__(self) -> None:
        counts = ("hidden_size", "drafter_size", "bottleneck", "num_blocks", "num_layers", "num_heads", "ffn_dim",
                  "max_positions", "num_source_layers", "num_kv_heads")  # fmt: skip
        given = {name: 1 for name in counts if getattr(self, name) is not None or name not in _MAY_BE_NONE}
        check_fields(self, "adapter setting", **given, draft_vocab=0, target_vocab=0, dropout="[0, 1)",
                     scale="(-inf, inf)", rope_theta="(0, inf)", norm_eps="[0, inf)")  # fmt: skip
        for name in _TUPLES:
            object.__setattr__(self, name, tuple(whole_numbers(getattr(self, name), f"adapter setting {name}")))
        if self.source_layers and len(self.source_layers) != self.num_source_layers:
            raise ValueError(
                f"adapter setting source_layers: expected {self.num_source_layers} numbers, got {self.source_layers}"
            )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"adapter settings: num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}"
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"adapter settings: num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}"
            )
        if not self.causal and self.level in RUNS_AHEAD:
            raise ValueError(f"adapter {self.level}: it predicts the next position, so it has to be causal")
        if self.drafted and (self.level not in RUNS_AHEAD or self.draft_vocab):
            raise ValueError(f"adapter {self.level}: drafted is a setting of heads that read with the target's lm head")
        if self.reads_last and self.level != "L5":
            raise ValueError(f"adapter {self.level}: reads_last is a setting of L5")

    @property
    def input_size(self) -> int:
        """Width of the drafter's states."""
        return self.hidden_size if self.drafter_size is None else self.drafter_size

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON has it."""
        return asdict(self) | {name: list(getattr(self, name)) for name in _TUPLES}


_TUPLES, _MAY_BE_NONE = ("source_layers", "drafted"), ("drafter_size", "num_kv_heads")
DEFAULTS: dict[str, dict[str, Any]] = {}
"""By level, what it starts from where it is not told otherwise; filled by `register`."""
LEVELS = DEFAULTS.keys()
"""Names of the levels that work on hidden states."""
RUNS_AHEAD = ("L5", "L5F", "B1", "E3", "E3S", "DF")
"""Those of this package whose output at row t stands for row t + 1."""


def level_settings(level: str, **settings: Any) -> AdapterSettings:
    """Return a level's defaults with `settings` in their place.

    Raises:
        ValueError: an unknown level or setting, or a value that does not fit.
    """
    if level == "L6":
        raise ValueError("adapter level 'L6' is LoRA on a drafter: use DrafterLora(pair) and load_lora(path, pair)")
    if level not in DEFAULTS:
        raise ValueError(
            f"adapter level {level!r}: expected one of {', '.join(LEVELS)}, or import the module that registers it"
        )
    known = {field.name for field in fields(AdapterSettings)} - {"level"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"adapter {level}: unknown setting {unknown[0]!r}; expected one of {', '.join(sorted(known))}")
    return replace(AdapterSettings(level, **DEFAULTS[level]), **settings)
