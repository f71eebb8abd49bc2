"""A trace: what a run left that replay and the cost model need, one row a sample."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from egptlib._clock import Event
from egptlib._whole import whole, whole_numbers
from egptlib.metrics import Branches, Replay, Tag, replay_trees
from egptlib.traces._parquet import read_table, write_table

TracePath = Literal["target", "free"]
_HEADER: dict[str, Any] = {
    "path": str, "pair": str, "device": str, "precision": str, "versions": dict, "source": str,
    "end_token_ids": list, "max_new_tokens": int | None, "trees": dict,
}  # fmt: skip
_GROWN = {"depth", "width", "min_confidence"}


@dataclass(frozen=True)
class TraceRow:
    """One answer. With its rounds and events it is what `metrics.fit_costs` takes for a run.

    Raises:
        ValueError: ids that are no whole numbers, an empty answer, or a length that is not that of `target_ids`.

    Attributes:
        sample, question: which one it is.
        target_ids: the target's own greedy answer, its end token included where it was reached; of a timed run, what
            it wrote. Empty where only the text was kept.
        num_tokens: length of the answer, which need not be given where `target_ids` is.
        drafter_ids: path "target": the drafter's next token at each position of `target_ids`. Path "free": the
            answer it wrote by itself, of any length. None where it was not recorded (a timed run knows how long a
            draft was accepted, not what the drafter would have said elsewhere).
        overlap: sum(min(p, q)) at each position, path "target" only.
        confidence: the drafter's largest probability at each position, path "target" only.
        branches: the tree behind the tokens before each position (`decoding.record_trees`), path "target" only.
        method: how the timed run decoded; "" where none was timed.
        tag: what kind of figure its times are; "" where none was timed.
        rounds: (drafted, accepted, gained) of each target pass of the timed run.
        events: what each model did when, in the order of their beginnings; empty where only sums are known.
        target_stages, drafter_stages: seconds by stage (`load`, `preprocess`, `vision`, `prefill`, `decode`, ...).
        total_seconds: the whole timed call; None where none was timed.
        target_prompt_length, drafter_prompt_length: positions in the cache before the first token; 0: not known.
    """

    sample: str
    question: str
    target_ids: list[int] = field(default_factory=list)
    drafter_ids: list[int] | None = None
    overlap: list[float] | None = None
    confidence: list[float] | None = None
    num_tokens: int = 0
    method: str = ""
    tag: Tag | Literal[""] = ""
    rounds: list[tuple[int, int, int]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    target_stages: dict[str, float] = field(default_factory=dict)
    drafter_stages: dict[str, float] = field(default_factory=dict)
    total_seconds: float | None = None
    target_prompt_length: int = 0
    drafter_prompt_length: int = 0
    branches: list[Branches] | None = None

    def __post_init__(self) -> None:
        for name in ("target_ids", "drafter_ids"):
            if (ids := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_numbers(ids, f"trace: {self.sample}: {name}"))
        if self.target_ids and self.num_tokens not in (0, len(self.target_ids)):
            raise ValueError(f"trace: {self.sample}: num_tokens is {self.num_tokens} for {len(self.target_ids)} ids")
        object.__setattr__(self, "num_tokens", len(self.target_ids) or self.num_tokens)
        for name in ("num_tokens", "target_prompt_length", "drafter_prompt_length"):
            object.__setattr__(self, name, whole(getattr(self, name), f"trace: {self.sample}: {name}", 0))
        if not self.num_tokens:
            raise ValueError(f"trace: {self.sample}: expected target_ids or num_tokens, found an empty answer")


@dataclass(frozen=True)
class Trace:
    """Recorded answers of one pair.

    Attributes:
        rows: one a sample (and method).
        path: along which tokens `drafter_ids` were recorded; only "target" can be replayed.
        pair, device, precision, versions: what ran.
        source: the file or folder it was made from; stored as nothing (beside its chunks), its own file once loaded.
        end_token_ids: tokens that end an answer.
        max_new_tokens: limit the answers were written under; None: not known.
        trees: `depth`, `width` and `min_confidence` that `TraceRow.branches` were grown with; empty where none were.

    Example:
        >>> from egptlib import replay
        >>> trace = Trace([TraceRow("scene", "What moves?", target_ids=[5, 6, 2], drafter_ids=[5, 7, 2])])
        >>> trace.save("trace.parquet")
        >>> Trace.load("trace.parquet").match
        array([[ True, False,  True]])
    """

    rows: list[TraceRow]
    path: TracePath = "target"
    pair: str = ""
    device: str = ""
    precision: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    source: str = ""
    end_token_ids: tuple[int, ...] = ()
    max_new_tokens: int | None = None
    trees: dict[str, int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path not in get_args(TracePath):
            raise ValueError(f"trace: path: expected one of {get_args(TracePath)}, got {self.path!r}")
        object.__setattr__(self, "end_token_ids", tuple(whole_numbers(self.end_token_ids, "trace: end_token_ids")))
        if self.max_new_tokens is not None:
            object.__setattr__(self, "max_new_tokens", whole(self.max_new_tokens, "trace: max_new_tokens"))
        if any(row.branches is not None for row in self.rows) and self.trees.keys() != _GROWN:
            raise ValueError(f"trace: trees: expected {', '.join(sorted(_GROWN))}, got {self.trees}")
        for i, row in enumerate(self.rows):
            along = {"overlap": row.overlap, "confidence": row.confidence, "branches": row.branches}
            if self.path == "target":
                along["drafter_ids"] = row.drafter_ids  # type: ignore[assignment]
                if row.drafter_ids is not None and not row.target_ids:
                    raise ValueError(f"trace: row {i} ({row.sample}): drafter_ids without target_ids")
            for name, values in along.items():
                if values is not None and len(values) != row.num_tokens:
                    raise ValueError(
                        f"trace: row {i} ({row.sample}): {name} has {len(values)} values for {row.num_tokens} tokens"
                    )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each answer, int64 [sample]."""
        return np.array([row.num_tokens for row in self.rows], dtype=np.int64)

    @property
    def match(self) -> np.ndarray:
        """Bool [sample, position]: the drafter's next token is the target's; False beyond an answer's end.

        Raises:
            ValueError: the drafter's tokens are not along the target's path, or were not recorded.
        """
        return self._padded([np.equal(ids, row.target_ids) for ids, row in zip(self._drafter_ids(), self.rows)], False)

    @property
    def drafter_ends(self) -> np.ndarray:
        """Bool [sample, position]: the drafter's next token ends an answer. For `replay(stops=)`. Errors as `match`."""
        return self._padded([np.isin(ids, self.end_token_ids) for ids in self._drafter_ids()], False)

    def values(self, name: Literal["overlap", "confidence"]) -> np.ndarray:
        """Return float64 [sample, position], 0 beyond an answer's end.

        Raises:
            ValueError: a row lacks them.
        """
        columns = [getattr(row, name) for row in self.rows]
        if any(column is None for column in columns):
            raise ValueError(f"trace {self.source}: {name} was not recorded")
        return self._padded([np.asarray(column) for column in columns], 0.0)

    def replay_trees(self, size: int, depth: int, width: int, min_confidence: float = 0.0) -> Replay:
        """Replay greedy decoding with trees of a shape (`decoding.TreeShape`), exactly; see `metrics.replay_trees`.

        Raises:
            ValueError: no branches were recorded, or those of other trees: of another width, less deep, or cut at a
                higher confidence.
        """
        grown = [row.branches for row in self.rows if row.branches is not None]
        if len(grown) < len(self.rows):
            raise ValueError(f"trace {self.source}: no branches were recorded; `decoding.record_trees` grows them")
        known = self.trees
        if width != known["width"] or depth > known["depth"] or min_confidence < known["min_confidence"]:
            raise ValueError(
                f"trace {self.source}: expected trees {known['width']} wide, at most {known['depth']} deep, with a "
                f"min_confidence of at least {known['min_confidence']:g}, as recorded; got {width}, {depth}, "
                f"{min_confidence:g}"
            )
        answers = [row.target_ids for row in self.rows]
        return replay_trees(answers, grown, size, depth, min_confidence=min_confidence, limit=self.max_new_tokens)

    def stage_seconds(self, lane: Literal["target", "drafter"], stage: str) -> np.ndarray:
        """Return seconds [sample] of one stage; NaN where it was not timed."""
        return np.array([getattr(row, f"{lane}_stages").get(stage, np.nan) for row in self.rows])

    @property
    def methods(self) -> list[str]:
        """The ways of decoding that were timed, in order."""
        return list(dict.fromkeys(row.method for row in self.rows if row.method))

    def method(self, name: str) -> "Trace":
        """Return the rows of one method, or of all that fit a pattern as `gamma *`.

        Raises:
            ValueError: none was timed (those that were are named).
        """
        chosen = [i for i, row in enumerate(self.rows) if row.method and fnmatchcase(row.method, name)]
        if not chosen:
            raise ValueError(f"trace {self.source}: no method {name!r}; timed were {', '.join(self.methods) or 'none'}")
        return self.select(chosen)

    def select(self, indices: Iterable[int]) -> "Trace":
        """Return a trace of some of the rows."""
        return self._with([self.rows[i] for i in indices])

    def cut(self, limit: int) -> "Trace":
        """Return what a run under a smaller limit would have left: the first `limit` tokens of each answer, untimed.

        Raises:
            ValueError: a limit below 1, or above that of the answers, which say nothing of their going on.
        """
        whole(limit, "limit", 1)
        if self.max_new_tokens is not None and limit > self.max_new_tokens:
            raise ValueError(f"limit: expected at most {self.max_new_tokens}, as recorded, found {limit}")
        parts = ("target_ids", "drafter_ids", "overlap", "confidence", "branches")
        rows = []
        for row in self.rows:
            begin: dict[str, Any] = {
                name: None if (part := getattr(row, name)) is None else part[:limit] for name in parts
            }
            rows.append(TraceRow(row.sample, row.question, **begin))
        return replace(self._with(rows), max_new_tokens=limit)

    @classmethod
    def join(cls, traces: Sequence["Trace"]) -> "Trace":
        """Return the rows of all, under what the first says of itself.

        Raises:
            ValueError: no traces, or another path, pair, precision or limit in one of them.
        """
        if not traces:
            raise ValueError("trace: expected at least one to join, found none")
        for other in traces[1:]:
            for name in ("path", "pair", "precision", "end_token_ids", "max_new_tokens", "trees"):
                here, there = getattr(traces[0], name), getattr(other, name)
                if here != there:
                    raise ValueError(f"trace {other.source}: {name} is {there!r}, in {traces[0].source} it is {here!r}")
        return traces[0]._with([row for trace in traces for row in trace.rows])

    def save(self, path: str | Path) -> None:
        """Write a parquet file, atomically, with a digest over all of it; `_parquet` says how.

        Raises:
            ValueError: a number or a text that parquet has no room for.
        """
        header = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}
        write_table(path, header, [_flat(row) for row in self.rows])

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read what `save` wrote.

        Raises:
            ValueError: not a parquet file, not a trace, one of another format version, or other bytes than were
                written.
            OSError: the file cannot be read.
        """
        header, records = read_table(path)
        for name, kind in _HEADER.items():
            if not isinstance(header.get(name), kind):
                raise ValueError(f"{path}: header: field {name!r} is {header.get(name)!r}; expected {kind}")
        if unknown := sorted(header.keys() - _HEADER.keys()):
            raise ValueError(f"{path}: header: unknown field {unknown[0]!r}")
        header["source"] = header["source"] or str(path)
        try:
            rows = [_row(record) for record in records]
            return cls(rows, **header | {"end_token_ids": tuple(header["end_token_ids"])})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None

    def _with(self, rows: list[TraceRow]) -> "Trace":
        return Trace(**{f.name: getattr(self, f.name) for f in fields(self)} | {"rows": rows})

    def _drafter_ids(self) -> Sequence[list[int]]:
        if self.path != "target":
            raise ValueError(f"trace {self.source}: each model wrote its own answer; replay needs the target's path")
        ids = [row.drafter_ids for row in self.rows]
        if any(row is None for row in ids):
            raise ValueError(f"trace {self.source}: the drafter's tokens were not recorded")
        return ids  # type: ignore[return-value]

    def _padded(self, rows: Sequence[np.ndarray], fill: Any) -> np.ndarray:
        width = int(self.lengths.max(initial=0))
        array = np.full((len(rows), width), fill)
        for i, row in enumerate(rows):
            array[i, : row.size] = row
        return array


def _flat(row: TraceRow) -> dict[str, Any]:
    """A row as parquet keeps it: maps as lists of pairs, rounds and events as one list a field."""
    record = dict(vars(row))
    for name in ("target_stages", "drafter_stages"):
        record[name] = list(record[name].items())
    where, names = f"trace: {row.sample}", ("drafted", "accepted", "gained")
    # Checked, for pyarrow would cut fractions to whole numbers.
    record["rounds"] = [dict(zip(names, whole_numbers(numbers, f"{where}: rounds"))) for numbers in row.rounds]
    record["events"] = [
        vars(event) | {"info": list(zip(event.info, whole_numbers(event.info.values(), f"{where}: {event.stage}")))}
        for event in row.events
    ]
    record["branches"] = None if row.branches is None else [each._asdict() for each in row.branches]
    return record


def _row(record: dict[str, Any]) -> TraceRow:
    for name in ("target_stages", "drafter_stages"):
        record[name] = dict(record[name])
    record["rounds"] = [(r["drafted"], r["accepted"], r["gained"]) for r in record["rounds"]]
    record["events"] = [Event(**event | {"info": dict(event["info"])}) for event in record["events"]]
    if record["branches"] is not None:
        record["branches"] = [Branches(**each) for each in record["branches"]]
        for i, (tokens, parents, sure) in enumerate(record["branches"]):
            if not len(tokens) == len(parents) == len(sure) or any(not -1 <= p < n for n, p in enumerate(parents)):
                raise ValueError(f"{record['sample']}: branches behind {i} tokens: no tree, found parents {parents}")
    return TraceRow(**record)
