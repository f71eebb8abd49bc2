"""A trace: what a run left that replay and the cost model need, one row a sample, as a parquet file."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from egptlib._paths import atomic_write

TracePath = Literal["target", "free"]
_HEADER = b"egptlib_trace"
_VERSION = 1


@dataclass(frozen=True)
class TraceRow:
    """One answer.

    Attributes:
        sample, question: which one it is.
        target_ids: the target's own greedy answer, its end token included where it was reached.
        drafter_ids: path "target": the drafter's next token at each position of `target_ids`. Path "free": the
            answer it wrote by itself, of any length. None where it was not recorded (a timed run knows how long a
            draft was accepted, not what the drafter would have said elsewhere).
        overlap: sum(min(p, q)) at each position, path "target" only.
        confidence: the drafter's largest probability at each position, path "target" only.
        method: how the timed run decoded; "" where none was timed.
        rounds: (drafted, accepted) of each target pass of the timed run, one after the other: [d0, a0, d1, a1, ...].
        target_stages, drafter_stages: seconds by stage (`load`, `preprocess`, `vision`, `prefill`, `decode`, ...).
        total_seconds: the whole timed call; None where none was timed.
        target_prompt_length, drafter_prompt_length: positions in the cache before the first token; 0: not known.
    """

    sample: str
    question: str
    target_ids: list[int]
    drafter_ids: list[int] | None = None
    overlap: list[float] | None = None
    confidence: list[float] | None = None
    method: str = ""
    rounds: list[int] = field(default_factory=list)
    target_stages: dict[str, float] = field(default_factory=dict)
    drafter_stages: dict[str, float] = field(default_factory=dict)
    total_seconds: float | None = None
    target_prompt_length: int = 0
    drafter_prompt_length: int = 0


@dataclass(frozen=True)
class Trace:
    """Recorded answers of one pair.

    Attributes:
        rows: one a sample (and method).
        path: along which tokens `drafter_ids` were recorded; only "target" can be replayed.
        pair, device, precision, versions: what ran.
        source: the file or folder it was made from.
        end_token_ids: tokens that end an answer.
        max_new_tokens: limit the answers were written under; None: not known.
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

    def __post_init__(self) -> None:
        if self.path not in get_args(TracePath):
            raise ValueError(f"trace: path: expected one of {get_args(TracePath)}, got {self.path!r}")
        for i, row in enumerate(self.rows):
            if not row.target_ids:
                raise ValueError(f"trace: row {i} ({row.sample}): target_ids is empty")
            along = {"overlap": row.overlap, "confidence": row.confidence}
            if self.path == "target":
                along["drafter_ids"] = row.drafter_ids  # type: ignore[assignment]
            for name, values in along.items():
                if values is not None and len(values) != len(row.target_ids):
                    raise ValueError(
                        f"trace: row {i} ({row.sample}): {name} has {len(values)} values for "
                        f"{len(row.target_ids)} tokens"
                    )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each answer, int64 [sample]."""
        return np.array([len(row.target_ids) for row in self.rows], dtype=np.int64)

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

    def stage_seconds(self, lane: Literal["target", "drafter"], stage: str) -> np.ndarray:
        """Return seconds [sample] of one stage; NaN where it was not timed."""
        return np.array([getattr(row, f"{lane}_stages").get(stage, np.nan) for row in self.rows])

    def select(self, indices: Iterable[int]) -> "Trace":
        """Return a trace of some of the rows."""
        kept = {f.name: getattr(self, f.name) for f in fields(self)} | {"rows": [self.rows[i] for i in indices]}
        return Trace(**kept)

    def save(self, path: str | Path) -> None:
        """Write a parquet file, atomically; what holds for all rows stands in its schema's metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        header = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"} | {"format": _VERSION}
        table = pa.Table.from_pylist([_flat(row) for row in self.rows], schema=_schema())
        table = table.replace_schema_metadata({_HEADER: json.dumps(header).encode()})
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read what `save` wrote.

        Raises:
            ValueError: not a parquet file, not a trace, or one of another format version.
            OSError: the file cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        Path(path).stat()  # a missing file is an OSError of its own, whatever parquet would say
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: not a readable parquet file ({error})") from None
        header = json.loads((table.schema.metadata or {}).get(_HEADER, b"{}"))
        if header.pop("format", None) != _VERSION:
            raise ValueError(f"{path}: not a trace of format {_VERSION}")
        if table.schema.names != _schema().names:
            raise ValueError(f"{path}: expected columns {_schema().names}, found {table.schema.names}")
        rows = []
        for record in table.to_pylist():
            for name in ("target_stages", "drafter_stages"):
                record[name] = dict(record[name])
            rows.append(TraceRow(**record))
        return cls(rows, **header | {"end_token_ids": tuple(header["end_token_ids"])})

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


def trace_from_hidden_states(samples: Iterable[Any], **header: Any) -> Trace:
    """Return the trace in stored hidden states: what `extract` left, read again without a model.

    Args:
        samples: a `HiddenStates` folder or samples of it; each has `token_ids`, `drafter_top1`, `metadata`, and
            `overlap` and `drafter_confidence` where they were stored.
        header: further fields of `Trace` (`pair`, `device`, `end_token_ids`, ...).

    Raises:
        ValueError: a sample holds no token ids (folders of the earlier writer).
    """
    rows = []
    for i, sample in enumerate(samples):
        if sample.token_ids is None or sample.drafter_top1 is None:
            raise ValueError(f"sample {i} holds no token ids: this folder was left by the earlier writer")
        metadata = sample.metadata
        confidence = getattr(sample, "drafter_confidence", None)
        rows.append(
            TraceRow(
                sample=str(metadata.get("scene", i)),
                question=str(metadata.get("question", "")),
                target_ids=sample.token_ids.tolist(),
                drafter_ids=sample.drafter_top1.tolist(),
                overlap=None if sample.overlap is None else sample.overlap.tolist(),
                confidence=None if confidence is None else confidence.tolist(),
            )
        )
    return Trace(rows, **header)


def trace_from_generations(
    generations: Iterable[Any], samples: Sequence[str], questions: Sequence[str], method: str, **header: Any
) -> Trace:
    """Return the trace of timed runs, one row a `Generation`.

    Args:
        generations: each with `token_ids`, `rounds` and `events` (lane, stage, start, end on one clock).
        samples, questions: what each one answered.
        method: how they decoded.
        header: further fields of `Trace`.

    Raises:
        ValueError: the numbers of generations, samples and questions differ.
    """
    rows = []
    for generation, sample, question in zip(generations, samples, questions, strict=True):
        stages: dict[str, dict[str, float]] = {"target": {}, "drafter": {}}
        for event in generation.events:
            lane = stages[event.lane]
            lane[event.stage] = lane.get(event.stage, 0.0) + event.end - event.start
        times = [(event.start, event.end) for event in generation.events]
        rows.append(
            TraceRow(
                sample=sample,
                question=question,
                target_ids=generation.token_ids.tolist(),
                method=method,
                rounds=[number for r in generation.rounds for number in (r.drafted, r.accepted)],
                target_stages=stages["target"],
                drafter_stages=stages["drafter"],
                total_seconds=max(e for _, e in times) - min(s for s, _ in times) if times else None,
            )
        )
    return Trace(rows, **header)


def _flat(row: TraceRow) -> dict[str, Any]:
    record = asdict(row)
    for name in ("target_stages", "drafter_stages"):
        record[name] = list(record[name].items())
    return record


def _schema() -> Any:
    import pyarrow as pa

    ids, floats, stages = pa.list_(pa.int32()), pa.list_(pa.float32()), pa.map_(pa.string(), pa.float64())
    types = {
        "sample": pa.string(),
        "question": pa.string(),
        "target_ids": ids,
        "drafter_ids": ids,
        "overlap": floats,
        "confidence": floats,
        "method": pa.string(),
        "rounds": ids,
        "target_stages": stages,
        "drafter_stages": stages,
        "total_seconds": pa.float64(),
        "target_prompt_length": pa.int32(),
        "drafter_prompt_length": pa.int32(),
    }
    return pa.schema(list(types.items()))
