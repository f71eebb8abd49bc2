"""Find out whether a store is whole, rebuild its index from its chunks, clear away what a crash left."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from egptlib._paths import parse_json
from egptlib._sealed import sha256
from egptlib.hidden_states._chunk import SafetensorsChunk, sample_key
from egptlib.hidden_states._heads import Head
from egptlib.hidden_states._index import (
    INDEX,
    PLAN,
    Damage,
    FolderLock,
    IndexDamage,
    Problem,
    is_legacy,
    join_index,
    new_index,
    present,
    read_index,
    write_index,
)
from egptlib.hidden_states._prompts import read_prompt
from egptlib.hidden_states._sample import PROMPTS, StoredPrompt
from egptlib.hidden_states._trace import TRACE
from egptlib.traces import Trace

_CHUNK = re.compile(r"chunk_(\d+)_(\d+)\.safetensors")
# What `atomic_write` calls a file of this room before it is whole.
_TEMPORARY = re.compile(
    r"\.(chunk_\d+_\d+|[0-9a-f]{32}|index|\w+_head|failures|shards|trace)-\w+\.(safetensors|jsonl?|parquet)"
)


def check_store(folder: Path, deep: bool = False) -> list[Problem]:
    """Name everything that is wrong with a store; an empty list when it is whole.

    Args:
        folder: of this library's writer.
        deep: read every byte and compare all checksums, those of the trace too; name samples that are there twice.
            Otherwise only the index, and that the files are there.
    """
    try:
        index = read_index(folder)
    except IndexDamage as error:
        return [error.problem]
    except OSError as error:
        return [Problem(Damage.INDEX, str(error))]
    if is_legacy(index):
        told = f"{folder / INDEX}: left by the earlier writer, which kept no checksums; see `egptlib convert`"
        return [Problem(Damage.FOREIGN, told)]
    problems, start = [], 0
    for entry in index["chunks"]:
        if entry["start"] != start:
            told = f"{folder / INDEX}: {entry['path']} begins at {entry['start']}, expected {start}"
            problems.append(Problem(Damage.FOREIGN, told))
        start += entry["num_samples"]
    if start != index["num_samples"]:
        told = f"{folder / INDEX}: {index['num_samples']} samples, its chunks hold {start}"
        problems.append(Problem(Damage.FOREIGN, told))
    for entry in (*index["chunks"], *index["heads"].values()):
        path = folder / entry["path"]
        try:
            present(path, entry, entry.get("num_samples", 0))
        except FileNotFoundError as error:
            problems.append(Problem(Damage.MISSING, str(error)))
        except ValueError as error:
            problems.append(Problem(Damage.BYTES, str(error)))
        else:
            if deep and sha256(path) != entry.get("sha256"):
                told = f"{path}: damaged: another SHA-256 than index.json says{_wrong_samples(path, entry)}"
                problems.append(Problem(Damage.BYTES, told))
    if not deep:
        return problems
    return problems + [*_doubled(folder, index), *_wrong_prompts(folder, index), *_wrong_trace(folder)]


def _wrong_samples(path: Path, entry: Mapping[str, Any]) -> str:
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


def _readable(folder: Path, index: Mapping[str, Any]) -> Iterator[tuple[Path, int, list[tuple[str, str]]]]:
    """The files whose metadata can be read: path, number of the first sample, and the samples' keys."""
    for entry in index["chunks"]:
        path = folder / entry["path"]
        try:
            metadata = SafetensorsChunk(path, entry["num_samples"]).metadata()
            yield path, entry["start"], [sample_key(record) for record in metadata]
        except (ValueError, OSError):
            continue  # named already


def _doubled(folder: Path, index: Mapping[str, Any]) -> Iterator[Problem]:
    """Samples whose scene and question another one has."""
    seen: dict[tuple[str, str], int] = {}
    for path, start, keys in _readable(folder, index):
        for number, key in enumerate(keys, start):
            first = seen.setdefault(key, number)
            if first != number:
                told = f"samples {first} and {number} are both scene {key[0]!r}, question {key[1]!r}"
                yield Problem(Damage.DOUBLED, f"{path}: {told}")


def _wrong_prompts(folder: Path, index: Mapping[str, Any]) -> Iterator[Problem]:
    """Prompts that are gone or have other bytes."""
    if not index["config"].get("prompt_rows"):
        return
    told = set[str]()
    for path, _, keys in _readable(folder, index):
        for key in keys:
            try:
                read_prompt(StoredPrompt(path.parent.parent / PROMPTS, *key))
            except (ValueError, OSError) as error:
                if str(error) not in told:
                    told.add(str(error))
                    missing = isinstance(error, FileNotFoundError)
                    yield Problem(Damage.MISSING if missing else Damage.BYTES, str(error))


def _wrong_trace(folder: Path) -> Iterator[Problem]:
    path = folder / TRACE
    try:
        if path.is_file():
            Trace.load(path)
    except ValueError as error:
        yield Problem(Damage.BYTES, f"{error}; `egptlib trace {folder}` makes it anew")


def repair_store(folder: Path) -> tuple[str, int]:
    """Mend what can be mended without taking anything for right that is not known to be; the old index is kept.

    A damaged index is made anew from chunks that prove whole (see `rebuild_index`). Where files at the end are gone,
    they are taken off the index, so that the rest can be read and the run go on. All else stays: no known digest is
    replaced.

    Returns:
        A line that says what was done, empty where nothing could be, and how many samples are known to be gone.

    Raises:
        ValueError: it is not safe; the reason is named, and nothing is changed.
    """
    damages = {problem.damage for problem in check_store(folder)}
    shortens = damages == {Damage.MISSING} and not (folder / PLAN).is_file()
    if not shortens and damages != {Damage.INDEX}:
        return "", 0
    lock = FolderLock(folder)
    try:
        if shortens:
            return _shorten(folder)
        before = _claimed(folder)
        return rebuild_index(folder), max(0, before - read_index(folder)["num_samples"])
    finally:
        lock.release()


def _claimed(folder: Path) -> int:
    """How many samples a damaged index says it has, as far as that can still be read."""
    try:
        said = parse_json((folder / INDEX).read_bytes(), folder / INDEX)["num_samples"]
    except (ValueError, OSError, KeyError, TypeError):
        return 0
    return said if type(said) is int else 0


def _shorten(folder: Path) -> tuple[str, int]:
    """Take the files at the end that are not there off the index."""
    index = read_index(folder)
    there = [(folder / entry["path"]).is_file() for entry in index["chunks"]]
    kept = there.index(False) if False in there else len(there)
    if any(there[kept:]) or not all((folder / head["path"]).is_file() for head in index["heads"].values()):
        raise ValueError(f"{folder / INDEX}: lists files that are not there, and not only at the end; put them back")
    chunks = index["chunks"][:kept]
    left = sum(entry["num_samples"] for entry in chunks)
    lost = index["num_samples"] - left
    kept_beside = _keep_old_index(folder)
    write_index(folder, index | {"chunks": chunks, "num_samples": left})
    told = f"{folder / INDEX}: samples {left} to {index['num_samples'] - 1} are lost with their files ({lost} samples)"
    return f"{told}; {left} are left, and the same extraction makes the others again{kept_beside}", lost


def _keep_old_index(folder: Path) -> str:
    """Copy `index.json` to a free name before another one takes its place; returns the words for it."""
    if not (folder / INDEX).is_file():
        return ""
    names = (folder / f"index.replaced-{number}.json" for number in count(1))
    old = next(path for path in names if not path.exists())
    shutil.copyfile(folder / INDEX, old)
    return f"; the old index is {old.name}"


def rebuild_index(folder: Path) -> str:
    """Write a new index from chunks that prove whole, and return a line that says what it holds.

    A folder joined from shards gets its index from theirs, whose chunks are not read. Otherwise every sample's checksum
    is compared first, and it is safe when the chunks follow one another without a gap from sample 0 on; where several
    begin at the same one (a crash while small files became a large one) the largest is taken. An index that is there is
    kept beside the new one.

    Raises:
        ValueError: it is not safe; the reason is named, and nothing is changed.
    """
    if (folder / PLAN).is_file():  # joined from shards, each with an index of its own
        kept = _keep_old_index(folder)
        return f"{folder / INDEX}: joined again from the shards' own, {join_index(folder)} samples{kept}"
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
        chunk = SafetensorsChunk(present(path, {}, last - start), last - start)
        told = chunk.file.told
        chunk.metadata()  # compares the header's checksum
        chunk.split(0, chunk.num_samples)
        if index is None:
            config = told["config"]
            index = new_index(parse_json(config, path))
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
    kept = _keep_old_index(folder)
    write_index(folder, index)
    return (
        f"{folder / INDEX}: rebuilt from {len(index['chunks'])} chunks with {start} samples, all checksums right{kept}"
    )


def remove_leftovers(folder: Path, index: dict[str, Any]) -> None:
    """Remove this writer's files that a crash left and the index does not list; only under the folder's lock."""
    remove_temporaries(folder)
    listed = {folder / entry["path"] for entry in index["chunks"]}
    for path in folder.glob("chunks/chunk_*"):
        if _CHUNK.fullmatch(path.name) and path not in listed and path.is_file():
            path.unlink()


def remove_temporaries(folder: Path) -> None:
    """Remove files of this room that a crash left before they were whole; only under the folder's lock."""
    for path in (*folder.glob("chunks/.*"), *folder.glob(f"{PROMPTS}/.*"), *folder.glob(".*")):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink()
