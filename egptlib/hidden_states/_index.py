"""`index.json`: what counts in a chunk folder, what damage it can have, its writer's lock, one index over shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from egptlib._paths import parse_json
from egptlib._sealed import content_checksum, read_sealed, write_sealed
from egptlib.hidden_states._format import FORMAT, READABLE, VERSION

INDEX = "index.json"
_LEAST = 8  # bytes that a sample takes at least, of either writer: where it begins, or how long it is


class Damage(Enum):
    """What is wrong; it decides what a repair may do."""

    INDEX = "the index is not the one that was written: it can be made anew from chunks that prove whole"
    FOREIGN = "another format, or a newer version: nothing of it is touched"
    MISSING = "a file is not there: samples at the end can be taken off the index, and are told"
    BYTES = "a file has other bytes than were written: what is known of it stays"
    DOUBLED = "a sample is there twice"


class Problem(str):
    """One line for a person, and the kind of it.

    Attributes:
        damage: the kind.
    """

    damage: Damage

    def __new__(cls, damage: Damage, text: str) -> Problem:
        problem = super().__new__(cls, text)
        problem.damage = damage
        return problem


class IndexDamage(ValueError):
    """An index that is not read.

    Attributes:
        problem: why.
    """

    def __init__(self, damage: Damage, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(damage, text)


def read_index(folder: Path) -> dict[str, Any]:
    """Return `index.json` of a chunk folder, this format's or the earlier one's.

    Raises:
        FileNotFoundError: there is none.
        IndexDamage: a ValueError: it is damaged, or not of a chunk folder, of a version that this release does not
            know, or names a file outside the folder.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected a hidden-state folder with index.json and chunks/")
    mend = f"; try `egptlib check {folder} --repair`"
    try:
        index = parse_json(path.read_bytes(), path)
    except ValueError as error:
        raise IndexDamage(Damage.INDEX, f"{error}{mend}") from None
    if not isinstance(index, dict) or not isinstance(index.get("chunks"), list):
        raise IndexDamage(Damage.INDEX, f"{path}: field 'chunks' is missing; expected a list of chunk files")
    if is_legacy(index):
        _check_entries(path, index["chunks"], ("n_samples",))
        return index
    version = index.get("version")
    if index.get("format") != FORMAT or version not in READABLE:
        newer = index.get("format") == FORMAT and isinstance(version, int) and version > VERSION
        raise IndexDamage(
            Damage.FOREIGN,
            f"{path}: format {index.get('format')!r} version {version!r}; expected {FORMAT!r} version {VERSION}"
            + "; a newer egptlib wrote it: install that one" * newer,
        )
    if index.get("checksum") != content_checksum(index):
        raise IndexDamage(Damage.INDEX, f"{path}: its checksum does not fit its content{mend}")
    if not isinstance(index.get("config"), dict) or not isinstance(index.get("heads"), dict):
        raise IndexDamage(Damage.FOREIGN, f"{path}: fields 'config' and 'heads': expected objects")
    _check_entries(path, index["chunks"], ("start", "num_samples", "num_positions", "bytes"))
    _check_entries(path, index["heads"].values(), ("bytes",))
    if type(index.get("num_samples")) is not int or not isinstance(index.get("fields"), dict):
        raise IndexDamage(Damage.FOREIGN, f"{path}: fields 'num_samples' and 'fields': expected a number and an object")
    return index


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write `index.json` with its own checksum, atomically: this is the moment at which a change counts."""
    write_sealed(folder / INDEX, index)


def new_index(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the index of an empty folder; `fields` comes with the first sample."""
    return {
        "format": FORMAT, "version": VERSION, "config": dict(config),
        "fields": {}, "num_samples": 0, "chunks": [], "heads": {},
    }  # fmt: skip


def is_legacy(index: Mapping[str, Any]) -> bool:
    """Whether the index was left by the earlier writer (`total_samples`, chunks of torch.save)."""
    return "format" not in index and "total_samples" in index


def present(path: Path, entry: Mapping[str, Any], samples: int = 0) -> Path:
    """Return the path of a file that the index lists, after a look at its size, before anything is made of its counts.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it has another size than the index says, or cannot hold as many samples.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: listed in {INDEX}, but not there")
    size = path.stat().st_size
    if size != entry.get("bytes", size):
        raise ValueError(f"{path}: {size} bytes, {INDEX} says {entry['bytes']}")
    if samples * _LEAST > size:
        raise ValueError(f"{path}: {size} bytes cannot hold the {samples} samples that {INDEX} says")
    return path


def _check_entries(path: Path, entries: Iterable[Any], numbers: Sequence[str]) -> None:
    for entry in entries:
        name = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise IndexDamage(Damage.FOREIGN, f"{path}: chunk path {name!r}; expected a file inside the folder")
        for field in numbers:
            if type(entry.get(field)) is not int or entry[field] < 0:
                raise IndexDamage(
                    Damage.FOREIGN, f"{path}: {name}: field {field!r} is {entry.get(field)!r}; expected a whole number"
                )


LOCK = "writer.lock"


class FolderLock:
    """An exclusive lock on `folder/writer.lock`, held until `release` or the end of the process.

    The kernel holds it (`flock`), so it goes with its process however that ends. The file itself stays.
    Another writer is waited for as many seconds as EGPTLIB_LOCK_SECONDS says, by default none: notebooks that run side
    by side want the same samples, and whoever comes second finds them done.

    Raises:
        ValueError: another writer holds it; its process is named.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file, seconds = folder / LOCK, float(os.environ.get("EGPTLIB_LOCK_SECONDS", "0"))
        # Whichever thread releases it; and no file that stands for a lock where the file system knows none.
        self._lock = FileLock(file, timeout=seconds, poll_interval=0.2, thread_local=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except Timeout:
            holder = file.read_text(encoding="utf-8", errors="replace")[:100].strip()
            raise ValueError(f"{folder}: another writer is at work here ({holder}); wait for it, or stop it") from None
        file.write_text(f"process {os.getpid()} on {os.uname().nodename}\n", encoding="utf-8")

    @property
    def is_held(self) -> bool:
        """Whether it has not been released."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let the next writer in. May be called twice."""
        self._lock.release()


PLAN = "shards.json"


def read_plan(out: Path) -> dict[str, Any]:
    """Return how a folder was cut into shards.

    Raises:
        ValueError: the file is damaged, or does not say so.
    """
    plan, path = read_sealed(out / PLAN), out / PLAN
    bounds, number = plan.get("bounds"), plan.get("num_shards")
    whole = [number, plan.get("num_scenes"), *(bounds if isinstance(bounds, list) else [None])]
    if not all(type(value) is int and value >= 0 for value in whole) or len(whole) - 3 != number:
        raise ValueError(f"{path}: expected num_shards, num_scenes and the bounds of the shards; found {plan!r:.80}")
    return plan


def join_index(out: Path) -> int:
    """List the chunks of all shards of `out` in one index, copying none; returns the number of samples.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard's index is damaged, or of another configuration than those before it.
    """
    joined: dict[str, Any] = {}
    for number in range(read_plan(out)["num_shards"]):
        folder = f"shards/{number:03d}"
        index = read_index(out / folder)
        joined = joined or index | {"chunks": [], "num_samples": 0, "heads": {}}
        joined["fields"] = joined["fields"] or index["fields"]  # a shard all of whose samples failed has none
        if index["config"] != joined["config"] or index["fields"] not in ({}, joined["fields"]):
            raise ValueError(f"{out / folder}: another configuration than the shards before it; remove it, run again")
        start = joined["num_samples"]
        for entry in index["chunks"]:
            moved = {"path": f"{folder}/{entry['path']}", "start": start + entry["start"]}
            joined["chunks"].append(entry | moved)
        for side, head in index["heads"].items():
            joined["heads"].setdefault(side, head | {"path": f"{folder}/{head['path']}"})
        joined["num_samples"] += index["num_samples"]
    write_index(out, joined)
    return joined["num_samples"]
