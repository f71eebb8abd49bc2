"""Find out whether a store is whole, rebuild its index from its chunks, clear away what a crash left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from egptlib.hidden_states._chunk import SafetensorsChunk
from egptlib.hidden_states._format import (
    INDEX,
    is_legacy,
    new_index,
    read_index,
    sha256,
    write_index,
)
from egptlib.hidden_states._heads import Head
from egptlib.hidden_states._join import PLAN, join_index

_CHUNK = re.compile(r"chunk_(\d+)_(\d+)\.safetensors")
# What `atomic_write` calls a file of this room before it is whole.
_TEMPORARY = re.compile(r"\.(chunk_\d+_\d+|index|\w+_head|failures|shards|trace)-\w+\.(safetensors|jsonl?|parquet)")


def check_store(folder: Path, deep: bool = False) -> list[str]:
    """Name everything that is wrong with a store; an empty list when it is whole.

    Args:
        folder: of this library's writer.
        deep: read every byte and compare all checksums. Otherwise only the index, and that the files are there.
    """
    try:
        index = read_index(folder)
    except (ValueError, OSError) as error:
        return [str(error)]
    if is_legacy(index):
        return [f"{folder / INDEX}: left by the earlier writer, which kept no checksums; see `egptlib convert`"]
    problems, start = [], 0
    for entry in index["chunks"]:
        if entry["start"] != start:
            problems.append(f"{folder / INDEX}: {entry['path']} begins at {entry['start']}, expected {start}")
        start += entry["num_samples"]
    if start != index["num_samples"]:
        problems.append(f"{folder / INDEX}: {index['num_samples']} samples, its chunks hold {start}")
    for entry in (*index["chunks"], *index["heads"].values()):
        path = folder / entry["path"]
        if not path.is_file():
            problems.append(f"{path}: listed in index.json, but not there")
        elif path.stat().st_size != entry["bytes"]:
            problems.append(f"{path}: {path.stat().st_size} bytes, index.json says {entry['bytes']}")
        elif deep and sha256(path) != entry["sha256"]:
            problems.append(f"{path}: damaged: another SHA-256 than index.json says{_wrong_samples(path, entry)}")
    return problems


def _wrong_samples(path: Path, entry: dict[str, Any]) -> str:
    """Which samples a damaged chunk cannot give any more."""
    if "num_samples" not in entry:
        return ""
    chunk, wrong = SafetensorsChunk(path, entry["num_samples"]), []
    try:
        chunk.metadata()
        for i in range(chunk.num_samples):
            try:
                chunk.split(i, i + 1)
            except ValueError:
                wrong.append(entry["start"] + i)
    except ValueError:
        return "; none of its samples can be read"
    return f"; unreadable samples: {', '.join(map(str, wrong)) or 'none'}"


def rebuild_index(folder: Path) -> str:
    """Write a new index from chunks that prove whole, and return a line that says what it holds.

    A folder joined from shards gets its index from theirs, whose chunks are not read. Otherwise every sample's checksum
    is compared first, and it is safe when the chunks follow one another without a gap from sample 0 on; where several
    begin at the same one (a crash while small files became a large one) the largest is taken.

    Raises:
        ValueError: it is not safe; the reason is named, and nothing is changed.
    """
    if (folder / PLAN).is_file():  # joined from shards, each with an index of its own
        return f"{folder / INDEX}: joined again from the shards' own, {join_index(folder)} samples"
    found: dict[int, tuple[int, Path]] = {}
    for path in sorted((folder / "chunks").glob("chunk_*")):
        if name := _CHUNK.fullmatch(path.name):
            first, last = int(name[1]), int(name[2])
            found[first] = max(found.get(first, (0, path)), (last, path))
    if not found:
        raise ValueError(f"{folder}: no chunk to rebuild {INDEX} from; remove the folder and start again")
    index, config = None, ""
    start = 0
    while start in found:
        last, path = found[start]
        chunk = SafetensorsChunk(path, last - start)
        told = chunk.file.told
        chunk.metadata()  # compares the header's checksum
        chunk.split(0, chunk.num_samples)
        if index is None:
            config = told["config"]
            index = new_index(json.loads(config))
            index["fields"] = {n: list(c.shape[1:]) for n, c in chunk.columns.items()}
        if told["config"] != config or told["start"] != str(start):
            raise ValueError(f"{path}: belongs to another run than the chunks before it; {INDEX} is not rebuilt")
        entry = {"path": f"chunks/{path.name}", "start": start, "num_samples": last - start}
        size = {"num_positions": len(chunk.columns["drafter_hidden"]), "bytes": path.stat().st_size}
        index["chunks"].append(entry | size | {"sha256": sha256(path)})
        start = last
    if index is None or max(found) > start:
        raise ValueError(f"{folder}: chunks of the samples from {start} on are missing; {INDEX} is not rebuilt")
    index["num_samples"] = start
    for side in ("target", "drafter"):
        path = folder / f"{side}_head.safetensors"
        if path.is_file():
            Head.load(path)  # compares its checksum
            index["heads"][side] = {"path": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    write_index(folder, index)
    return f"{folder / INDEX}: rebuilt from {len(index['chunks'])} chunks with {start} samples, all checksums right"


def remove_leftovers(folder: Path, index: dict[str, Any]) -> None:
    """Remove this writer's files that a crash left and the index does not list; only under the folder's lock."""
    remove_temporaries(folder)
    listed = {folder / entry["path"] for entry in index["chunks"]}
    for path in folder.glob("chunks/chunk_*"):
        if _CHUNK.fullmatch(path.name) and path not in listed and path.is_file():
            path.unlink()


def remove_temporaries(folder: Path) -> None:
    """Remove files of this room that a crash left before they were whole; only under the folder's lock."""
    for path in (*folder.glob("chunks/.*"), *folder.glob(".*")):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink()
