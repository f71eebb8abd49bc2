"""What the parts of a decoding run cost on one machine: measured by `decoding`, read by the cost model."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from egptlib._clock import READING
from egptlib._sealed import read_sealed, write_sealed


@dataclass(frozen=True)
class Costs:
    """Measured costs of a pair. Every time is in SECONDS; dictionaries are copied and not to be changed.

    A model's passes over more than one token are given at the sizes that were measured; `verify_seconds` and
    `drafter_pass_seconds` interpolate between them and refuse to go beyond the largest.

    Attributes:
        target_step: T_p(1), one target pass over one token, the cache filled to `context_length`.
        drafter_step: T_q(1), the same of the drafter, with choosing the token.
        verify: gamma -> one target pass over gamma + 1 tokens. `verify[0]` equals `target_step` when left out.
        drafter_passes: number of tokens -> one drafter pass over so many. After a verification that accepted
            every draft the drafter has two tokens to read instead of one. One token costs `drafter_step`.
        target_stages: seconds before the target's first token, by stage: `load`, `preprocess`, `vision`,
            `prefill`; any that was not timed is left out.
        drafter_stages: the same of the drafter, and `adapter`: seconds per drafted token spent in an adapter.
        round_overhead: host seconds per round that belong to neither model (comparing, rolling back).
        draft_overhead: seconds per draft besides its steps (asking a drafter in another process).
        call_overhead: seconds per answer besides reading and rounds.
        free_draft_step: seconds per token drafted before the target was ready; 0: a `drafter_step`.
        target_growth: seconds a target step gets longer per position in the cache, beyond `context_length`.
        drafter_growth: the same of the drafter.
        context_length: positions in the target's cache when its steps were timed.
        contention_target: the target's time while the drafter runs beside it, over its time alone (1 = none).
        contention_drafter: the drafter's.
        device: what it was measured on, e.g. `cpu (2 threads)` or `cuda: NVIDIA GeForce RTX 4090`.
        precision: `float32`, `bfloat16`, `nf4`, ...
        pair: name of the pair.
        versions: package -> version.

    Raises:
        ValueError: a time that is negative, NaN or infinite, a step of 0, a contention that is not positive, a
            gamma below 0, a number of tokens below 1.
    """

    target_step: float
    drafter_step: float
    verify: dict[int, float] = field(default_factory=dict)
    drafter_passes: dict[int, float] = field(default_factory=dict)
    target_stages: dict[str, float] = field(default_factory=dict)
    drafter_stages: dict[str, float] = field(default_factory=dict)
    round_overhead: float = 0.0
    draft_overhead: float = 0.0
    call_overhead: float = 0.0
    free_draft_step: float = 0.0
    target_growth: float = 0.0
    drafter_growth: float = 0.0
    context_length: int = 0
    contention_target: float = 1.0
    contention_drafter: float = 1.0
    device: str = ""
    precision: str = ""
    pair: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("target_step", "drafter_step", "contention_target", "contention_drafter"):
            _check(name, getattr(self, name), positive=True)
        overheads = ("round_overhead", "draft_overhead", "call_overhead", "free_draft_step")
        for name in (*overheads, "target_growth", "drafter_growth"):
            _check(name, getattr(self, name))
        for name, least in (("verify", 0), ("drafter_passes", 1)):
            for size, seconds in getattr(self, name).items():
                if size < least:
                    raise ValueError(f"costs: {name}[{size}]: expected a size of at least {least}")
                _check(f"{name}[{size}]", seconds, positive=True)
        for name in ("target_stages", "drafter_stages"):
            for stage, seconds in getattr(self, name).items():
                _check(f"{name}[{stage!r}]", seconds)
        if self.context_length < 0:
            raise ValueError(f"costs: context_length: expected 0 or more, got {self.context_length}")

    @property
    def cost_ratio(self) -> float:
        """c = T_q(1) / T_p(1)."""
        return self.drafter_step / self.target_step

    def verify_seconds(self, gamma: int) -> float:
        """Seconds of a target pass over gamma + 1 tokens, interpolated between the measured sizes.

        Raises:
            ValueError: gamma below 0, or above the largest that was measured.
        """
        return _interpolate("verify", {0: self.target_step} | self.verify, gamma)

    def verify_cost(self, gamma: int) -> float:
        """v(gamma) = T_p(gamma + 1) / T_p(1). Errors as `verify_seconds`."""
        return self.verify_seconds(gamma) / self.target_step

    def drafter_pass_seconds(self, num_tokens: int) -> float:
        """Seconds of a drafter pass over `num_tokens`, interpolated. Errors as `verify_seconds`."""
        return _interpolate("drafter_passes", {1: self.drafter_step} | self.drafter_passes, num_tokens)

    @property
    def target_prefill(self) -> float:
        """Seconds from preprocessing to the target's first logits; loading from disk does not count."""
        return sum(self.target_stages.get(stage, 0.0) for stage in READING)

    @property
    def drafter_prefill(self) -> float:
        """The same of the drafter."""
        return sum(self.drafter_stages.get(stage, 0.0) for stage in READING)

    @property
    def free_draft_tokens(self) -> int:
        """floor(max(0, T_prefill_target - T_prefill_drafter) / T_q(1)), as if both models ran undisturbed."""
        return math.floor(max(0.0, self.target_prefill - self.drafter_prefill) / self.drafter_step)

    def save(self, path: str | Path) -> None:
        """Write the costs to a JSON file, atomically, with a checksum."""
        write_sealed(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Costs":
        """Read a file that `save` wrote.

        A file without `checksum` may come from anybody.

        Raises:
            ValueError: not a JSON object, a checksum that does not fit, a field unknown or missing, a value that does
                not fit; the file is named.
        """
        content = read_sealed(path)
        try:
            return cls._from_object(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def median(cls, parts: Sequence["Costs"]) -> "Costs":
        """Return the medians of costs that were measured again and again between other work.

        Raises:
            ValueError: no parts, or parts that did not measure the same sizes and stages.
        """
        if not parts:
            raise ValueError("costs: expected at least one measurement, found none")
        values: dict[str, Any] = {}
        for f in fields(cls):
            found = [getattr(part, f.name) for part in parts]
            if f.type is float:
                values[f.name] = statistics.median(found)
            elif isinstance(found[0], dict) and f.name != "versions":
                if any(table.keys() != found[0].keys() for table in found):
                    raise ValueError(f"costs: {f.name}: expected the same keys in every measurement")
                values[f.name] = {key: statistics.median(table[key] for table in found) for key in found[0]}
        return replace(parts[0], **values)

    @classmethod
    def _from_object(cls, obj: Any) -> "Costs":
        if not isinstance(obj, Mapping):
            raise ValueError(f"costs: expected a JSON object, got {type(obj).__name__}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(obj) - known):
            raise ValueError(f"costs: unknown field {unknown[0]!r}")
        if missing := sorted({"target_step", "drafter_step"} - set(obj)):
            raise ValueError(f"costs: field {missing[0]!r} is missing")
        values = {name: _number(value) for name, value in obj.items()}
        for name in ("verify", "drafter_passes"):
            table = values.get(name, {})
            if not isinstance(table, Mapping) or not all(str(size).isdecimal() for size in table):
                raise ValueError(f"costs: {name}: expected an object of whole numbers to seconds, got {table!r}")
            values[name] = {int(size): _number(seconds) for size, seconds in table.items()}
        for name in ("target_stages", "drafter_stages", "versions"):
            table = values.get(name, {})
            if not isinstance(table, Mapping):
                raise ValueError(f"costs: {name}: expected an object, got {table!r}")
            values[name] = {stage: _number(seconds) for stage, seconds in table.items()}
        values["context_length"] = int(values.get("context_length", 0))
        for name in _NUMBERS & set(values):
            _check(name, values[name])
        return cls(**values)


_NUMBERS = {f.name for f in fields(Costs) if f.type in (float, int)}


def _number(value: Any) -> Any:
    """Return a whole number of JSON as a float; anything else as it is."""
    return float(value) if type(value) is int else value


def _check(name: str, value: Any, positive: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (positive and value == 0):
        raise ValueError(f"costs: {name}: expected a {'positive ' if positive else ''}number, got {value!r}")


def _interpolate(name: str, table: Mapping[int, float], size: int) -> float:
    """Return the value at `size` on straight lines between the entries of `table`."""
    sizes = sorted(table)
    if not sizes[0] <= size <= sizes[-1]:
        raise ValueError(f"costs: {name} was measured from {sizes[0]} to {sizes[-1]}, {size} was asked for")
    if size in table:
        return table[size]
    above = next(s for s in sizes if s > size)
    below = max(s for s in sizes if s < size)
    weight = (size - below) / (above - below)
    return (1 - weight) * table[below] + weight * table[above]
