"""A trace as a parquet file: one row a sample, and what holds for all of them in the schema's metadata."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from egptlib._paths import atomic_write
from egptlib.traces._trace import Trace, TraceEvent, TraceRow

_HEADER = b"egptlib_trace"
_VERSION = 1


def save_trace(trace: Trace, path: str | Path) -> None:
    """See `Trace.save`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    header = {f.name: getattr(trace, f.name) for f in fields(trace) if f.name != "rows"} | {"format": _VERSION}
    table = pa.Table.from_pylist([_flat(row) for row in trace.rows], schema=_schema())
    table = table.replace_schema_metadata({_HEADER: json.dumps(header).encode()})
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def load_trace(path: str | Path) -> Trace:
    """See `Trace.load`."""
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
    rows = [_row(record) for record in table.to_pylist()]
    header["source"] = header["source"] or str(path)
    return Trace(rows, **header | {"end_token_ids": tuple(header["end_token_ids"])})


def count_rows(path: str | Path) -> int | None:
    """Number of rows of a trace, without reading them; None where there is no such file, or a damaged one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def _flat(row: TraceRow) -> dict[str, Any]:
    """A row as parquet keeps it: maps as lists of pairs, rounds and events as one list a field."""
    record = asdict(row)
    for name in ("target_stages", "drafter_stages"):
        record[name] = list(record[name].items())
    record["rounds"] = [dict(zip(("drafted", "accepted", "gained"), numbers)) for numbers in row.rounds]
    record["events"] = [event | {"info": list(event["info"].items())} for event in record["events"]]
    return record


def _row(record: dict[str, Any]) -> TraceRow:
    for name in ("target_stages", "drafter_stages"):
        record[name] = dict(record[name])
    record["rounds"] = [(r["drafted"], r["accepted"], r["gained"]) for r in record["rounds"]]
    record["events"] = [TraceEvent(**event | {"info": dict(event["info"])}) for event in record["events"]]
    return TraceRow(**record)


def _schema() -> Any:
    import pyarrow as pa

    text, seconds, count = pa.string(), pa.float64(), pa.int32()
    ids, floats, stages = pa.list_(count), pa.list_(pa.float32()), pa.map_(text, seconds)
    rounds = pa.list_(pa.struct([("drafted", count), ("accepted", count), ("gained", count)]))
    event = [("lane", text), ("stage", text), ("start", seconds), ("end", seconds), ("info", pa.map_(text, count))]
    types = {
        "sample": text,
        "question": text,
        "target_ids": ids,
        "drafter_ids": ids,
        "overlap": floats,
        "confidence": floats,
        "num_tokens": count,
        "method": text,
        "tag": text,
        "rounds": rounds,
        "events": pa.list_(pa.struct(event)),
        "target_stages": stages,
        "drafter_stages": stages,
        "total_seconds": seconds,
        "target_prompt_length": count,
        "drafter_prompt_length": count,
    }
    return pa.schema(list(types.items()))
