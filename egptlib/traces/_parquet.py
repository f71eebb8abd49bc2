"""A trace as a parquet file whose every bit is checked: pages by their own checksums, the whole file by one digest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egptlib._paths import atomic_write, parse_json

VERSION = 3  # 2 had no branches of trees, 1 no digest either; both are still read
_HEADER = b"egptlib_trace"
_DIGEST = b"egptlib_sha256"
_NONE = b"sha256:" + b"0" * 64  # what stands in its place while the digest is made


def write_table(path: str | Path, header: Mapping[str, Any], records: list[dict[str, Any]]) -> None:
    """Write rows and what holds for all of them, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist(records, schema=_schema())
    except (pa.ArrowException, ValueError) as error:  # a number too large, a lone surrogate
        raise ValueError(f"{path}: a row cannot be stored ({error})") from None
    told = json.dumps({**header, "format": VERSION}).encode()
    table = table.replace_schema_metadata({_HEADER: told})
    with atomic_write(path) as temporary:
        with pq.ParquetWriter(temporary, table.schema, compression="zstd", write_page_checksum=True) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({_DIGEST: _NONE})
        data = temporary.read_bytes()
        before, _, after = data.rpartition(_NONE)  # the footer is the end of the file
        temporary.write_bytes(before + _digest(data) + after)


def read_table(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return header and rows.

    Raises:
        ValueError: not a parquet file, not a trace, one of another version, or other bytes than were written.
        OSError: the file cannot be read.
    """
    import pyarrow as pa

    header, file = _open(path)
    try:
        table = file.read()
        if header.pop("format") < 3:
            header["trees"] = {}
            field = _schema().field("branches")
            table = table.append_column(field, pa.nulls(len(table), field.type))
        records = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error})") from None
    if table.schema.names != _schema().names:
        raise ValueError(f"{path}: expected columns {_schema().names}, found {table.schema.names}")
    for field, found in zip(_schema(), table.schema):
        if field.type != found.type:
            raise ValueError(f"{path}: column {field.name!r} is {found.type}; expected {field.type}")
    return header, records


def count_rows(path: str | Path) -> int | None:
    """Number of rows of a trace, without reading them; None where there is no such file, or a damaged one."""
    try:
        return int(_open(path)[1].metadata.num_rows)
    except (FileNotFoundError, ValueError):
        return None


def _open(path: str | Path) -> tuple[dict[str, Any], Any]:
    """Header and opened file, after its digest; the numbers that it declares are compared with its size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = Path(path).read_bytes()
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        told = file.metadata.metadata or {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error})") from None
    header = parse_json(told.get(_HEADER, b"{}"), f"{path}: header")
    version = header.get("format") if isinstance(header, dict) else None
    if version not in (1, 2, VERSION):
        raise ValueError(f"{path}: not a trace of format {VERSION}")
    digest = told.get(_DIGEST)
    if version != 1 or digest is not None:
        before, found, after = data.rpartition(digest or _NONE)
        if not found or _digest(before + _NONE + after) != digest:
            raise ValueError(f"{path}: damaged: other bytes than were written")
    if file.metadata.num_rows > len(data):
        raise ValueError(f"{path}: {len(data)} bytes cannot hold the {file.metadata.num_rows} rows that it declares")
    return header, file


def _digest(data: bytes) -> bytes:
    return b"sha256:" + hashlib.sha256(data).hexdigest().encode()


def _schema() -> Any:
    import pyarrow as pa

    text, seconds, count = pa.string(), pa.float64(), pa.int32()
    ids, floats, stages = pa.list_(count), pa.list_(pa.float32()), pa.map_(text, seconds)
    rounds = pa.list_(pa.struct([("drafted", count), ("accepted", count), ("gained", count)]))
    branches = pa.struct([("tokens", ids), ("parents", ids), ("confidence", pa.list_(seconds))])
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
        "branches": pa.list_(branches),
    }
    return pa.schema(list(types.items()))
