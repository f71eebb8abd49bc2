"""Write hidden states so that nothing committed is ever lost, and a run that was stopped ends with the same bytes."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from egptlib._whole import whole
from egptlib.hidden_states._chunk import LONGEST_RECORD, SafetensorsChunk, sample_key
from egptlib.hidden_states._format import VERSION, write_chunk
from egptlib.hidden_states._heads import Head
from egptlib.hidden_states._index import (
    INDEX,
    Damage,
    FolderLock,
    IndexDamage,
    is_legacy,
    new_index,
    read_index,
    write_index,
)
from egptlib.hidden_states._prompts import PromptRows, write_prompts
from egptlib.hidden_states._recovery import rebuild_index, remove_leftovers
from egptlib.hidden_states._sample import FIGURES, IDS, PROMPTS

_Pending = dict[tuple[str, str], tuple[dict[str, Tensor], dict[str, Any]]]  # by scene and question
log = getLogger(__name__)
STORED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FIELDS = ("drafter_hidden", "target_hidden", "drafter_layers", "target_layers", *IDS, *FIGURES)  # as in a file


class HiddenStateWriter:
    """Append samples to a chunk folder; opened on a folder that exists, continue it.

        with HiddenStateWriter("hidden_states/streets_test", config={"pair": "mini"}) as writer:
            if ("seq_00/000000", "What is moving?") not in writer:
                writer.add(drafter_hidden, target_hidden, token_ids, drafter_top1, overlap, metadata, ...)

    A sample is safe on disk (synced, listed in a synced index) after its commit: every `commit_every` samples, when
    a chunk is full, at `commit`, and at the end of the block, also when that ends by an error or Ctrl-C. A commit
    writes a small file; once `chunk_size` samples are together they become one chunk. Files are never changed, only
    replaced by a larger one, so the same samples end as the same bytes, whatever stopped the writing in between.
    One writer per folder at a time, across processes.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: Mapping[str, Any] | None = None,
        chunk_size: int = 1000,
        dtype: str = "float32",
        commit_every: int = 50,
    ) -> None:
        """Open `folder`, made when missing.

        Args:
            folder: the chunk folder.
            config: what the samples depend on, as plain JSON values; a folder holds samples of one config.
            chunk_size: samples per file.
            dtype: of the stored hidden states: "float32", "bfloat16" or "float16". It counts as config. With the
                short ones the three figures (overlap, confidence, entropy) are stored as float16.
            commit_every: most samples that a crash can cost.

        Raises:
            ValueError: an unknown dtype, another writer at work in the folder, a folder that holds samples of
                another config (the field is named), or one whose index is damaged beyond what its chunks tell.
        """
        if dtype not in STORED_DTYPES:
            raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(STORED_DTYPES)}")
        chunk_size, commit_every = whole(chunk_size, "chunk_size"), whole(commit_every, "commit_every")
        if chunk_size < 1 or commit_every < 1:
            raise ValueError(f"chunk_size {chunk_size}, commit_every {commit_every}: expected at least 1")
        self.folder = Path(folder)
        self.chunk_size, self.commit_every = chunk_size, commit_every
        # Through JSON once, so that what is compared on resume has the same types (tuples become lists).
        self.config: dict[str, Any] = json.loads(json.dumps({**(config or {}), "dtype": dtype}))
        self._dtype = STORED_DTYPES[dtype]
        self._figure_dtype = torch.float32 if dtype == "float32" else torch.float16
        self._keys: set[tuple[str, str]] = set()  # of the index; until the swap below, of what is being committed too
        # What is on disk and what is not: one attribute, so that no interrupt can fall between the two.
        self._state: tuple[dict[str, Any], _Pending] = (new_index(self.config), {})
        self._lock = FolderLock(self.folder)
        try:
            if not (self.folder / INDEX).exists() and any(self.folder.glob("chunks/chunk_*.safetensors")):
                log.warning(rebuild_index(self.folder))
            if (self.folder / INDEX).exists():
                self._resume()
            remove_leftovers(self.folder, self._index)
            if self._tail_size() >= chunk_size:  # stopped between the last commit of a chunk and its merge
                self._merge()
        except BaseException:
            self._lock.release()
            raise

    def __len__(self) -> int:
        """Number of samples, those not yet committed included."""
        return self.num_committed + len(self._pending)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Iterate over (scene, question) of every sample, those not yet committed included."""
        return iter(self._keys | self._pending.keys())

    def __contains__(self, key: object) -> bool:
        """Whether the sample (scene, question) is there already."""
        return key in self._keys or key in self._pending

    @property
    def num_committed(self) -> int:
        """Number of samples that are safe on disk."""
        return self._index["num_samples"]

    @property
    def _index(self) -> dict[str, Any]:
        return self._state[0]

    @property
    def _pending(self) -> _Pending:
        return self._state[1]

    def add(
        self,
        drafter_hidden: Tensor,
        target_hidden: Tensor,
        token_ids: Tensor | None = None,
        drafter_top1: Tensor | None = None,
        overlap: Tensor | None = None,
        metadata: Mapping[str, Any] | None = None,
        **more: Tensor | None,
    ) -> None:
        """Add one sample; what the fields mean is said at `HiddenSample`. All samples of a folder have the same ones.

        Args:
            drafter_hidden: [length, drafter width], any float dtype, stored in the writer's.
            target_hidden: [length, target width].
            token_ids, drafter_top1: integers [length].
            overlap: [length].
            metadata: plain JSON values, with `scene` and `question`, which together name the sample.
            more: `drafter_confidence` and `target_entropy` [length], `drafter_layers` and `target_layers` [length,
                layers, width].

        Raises:
            ValueError: lengths or widths that do not fit, a value that is not finite once stored, ids that are not
                whole numbers of 32 bits, metadata that is no JSON or no valid Unicode, or a sample that is there
                already. Nothing is kept of the sample then.
            OSError: it was time to commit, and that failed (a full disk). The samples not yet committed are kept
                in memory, and `commit` can be called again.
        """
        _disk(self)  # refuses where this writer is closed
        try:
            key = sample_key(metadata or {})
        except KeyError as missing:
            raise ValueError(f"metadata lacks {missing}; expected at least 'scene' and 'question'") from None
        where = f"scene {key[0]!r}, question {key[1]!r}"
        if key in self:
            raise ValueError(f"{where}: already in {self.folder}")
        if unknown := more.keys() - set(_FIELDS):
            raise TypeError(f"add: no such field of a sample: {', '.join(sorted(unknown))}")
        given = {"drafter_hidden": drafter_hidden, "target_hidden": target_hidden, "token_ids": token_ids}
        given |= {"drafter_top1": drafter_top1, "overlap": overlap} | more
        tensors = {name: self._stored(name, own, where) for name in _FIELDS if (own := given.get(name)) is not None}
        self._check(tensors, len(drafter_hidden), where)
        self._pending[key] = (tensors, _record(metadata or {}, where))
        full = self._tail_size() + len(self._pending) >= self.chunk_size
        if full or len(self._pending) >= self.commit_every:
            self.commit()
            if full:
                self._merge()

    def add_prompts(self, scene: str, prompts: Mapping[str, PromptRows]) -> None:
        """Keep the target's states along a scene's prompts, by question, before the samples that need them are added.

        Those of other questions that are there stay. Safe on disk when it returns.

        Raises:
            OSError: the disk is full.
        """
        where = f"scene {scene!r}"
        stored = {
            question: PromptRows(*(self._stored(name, tensor, where) for name, tensor in rows._asdict().items()))
            for question, rows in prompts.items()
        }
        with _disk(self):
            write_prompts(self.folder / PROMPTS, scene, stored, self.config)

    def add_heads(self, **heads: Head) -> None:
        """Save `target=` and `drafter=` heads beside the chunks, where the folder does not have them yet.

        Raises:
            OSError: the disk is full.
        """
        for side, head in heads.items():
            if side not in self._index["heads"]:
                with _disk(self):
                    entry = head.save(self.folder / f"{side}_head.safetensors")
                    self._publish(self._index | {"heads": self._index["heads"] | {side: entry}}, self._pending)

    def commit(self) -> None:
        """Make every sample added so far safe on disk."""
        if not self._pending:
            return
        samples, records = zip(*self._pending.values())
        columns = {name: [tensors[name] for tensors in samples] for name in samples[0]}
        start = self.num_committed
        with _disk(self):
            entry = self._write(columns, records, start)
            index = self._index | {"fields": _fields(samples[0]), "num_samples": start + len(records)}
            index["chunks"] = [*self._index["chunks"], entry]
            self._keys.update(self._pending)
            self._publish(index, {})

    def close(self) -> None:
        """Commit, make one chunk of the small files at the end, and let the next writer in."""
        try:
            self.commit()
            self._merge()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):  # most likely the commit itself failed: what is committed stays as it is
            self._lock.release()
        else:
            self.close()

    def _stored(self, name: str, values: Tensor, where: str) -> Tensor:
        tensor = torch.as_tensor(values).detach()
        if name in IDS:
            ids = tensor.to("cpu", torch.int32, copy=True).contiguous()  # the caller may fill its own anew
            if not torch.equal(ids.to(tensor.dtype), tensor.cpu()):
                raise ValueError(f"{where}: {name}: expected whole numbers of 32 bits, found others in {tensor.dtype}")
            return ids
        if tensor.is_complex():
            raise ValueError(f"{where}: {name} is {tensor.dtype}; expected real numbers")
        dtype = self._figure_dtype if name in FIGURES else self._dtype
        return tensor.to("cpu", dtype, copy=True).contiguous()

    def _write(self, columns: dict[str, list[Tensor]], records: Sequence[dict[str, Any]], start: int) -> dict[str, Any]:
        """One file of samples; named by its first and last sample, so that no other file ever has its name."""
        for name in IDS:
            if name in columns and all(torch.equal(part.to(torch.int16).to(part), part) for part in columns[name]):
                columns[name] = [part.to(torch.int16) for part in columns[name]]
            elif name in columns:
                columns[name] = [part.to(torch.int32) for part in columns[name]]
        path = self.folder / "chunks" / f"chunk_{start:06d}_{start + len(records):06d}.safetensors"
        entry = write_chunk(path, columns, records, start, self.config)
        return entry | {"path": f"chunks/{path.name}"}

    def _publish(self, index: dict[str, Any], pending: _Pending) -> None:
        """Let an index count. Stopped in between, the same samples are written again: the same file, the same index."""
        index = index | {"version": VERSION}
        write_index(self.folder, index)
        self._state = (index, pending)

    def _tail(self) -> list[dict[str, Any]]:
        """The files at the end that are smaller than a chunk."""
        entries = self._index["chunks"]
        first = len(entries)
        while first and entries[first - 1]["num_samples"] < self.chunk_size:
            first -= 1
        return entries[first:]

    def _tail_size(self) -> int:
        return sum(entry["num_samples"] for entry in self._tail())

    def _merge(self) -> None:
        """Make one file of those at the end, memory-mapped, then list it instead of them, then remove them."""
        tail = self._tail()
        if len(tail) < 2:
            return
        chunks = [SafetensorsChunk(self.folder / entry["path"], entry["num_samples"]) for entry in tail]
        columns: dict[str, list[Tensor]] = {name: [] for name in self._index["fields"]}
        for chunk in chunks:
            for name, rows in chunk.split(0, chunk.num_samples).items():
                columns[name] += rows
        records = [record for chunk in chunks for record in chunk.metadata()]
        with _disk(self):
            entry = self._write(columns, records, tail[0]["start"])
            self._publish(self._index | {"chunks": [*self._index["chunks"][: -len(tail)], entry]}, self._pending)
        for old in tail:
            (self.folder / old["path"]).unlink()

    def _resume(self) -> None:
        where = self.folder / INDEX
        try:
            index = read_index(self.folder)
        except IndexDamage as error:
            if error.problem.damage is not Damage.INDEX:
                raise
            log.warning("%s\n%s", error, rebuild_index(self.folder))
            index = read_index(self.folder)
        if is_legacy(index):
            raise ValueError(f"{where}: written by the earlier writer; it can be read, but not continued")
        if any(not entry["path"].startswith("chunks/") for entry in index["chunks"]):
            raise ValueError(f"{where}: joined from shards; it is continued by extracting with the same shards")
        for field in sorted(index["config"].keys() | self.config.keys()):
            there, here = index["config"].get(field), self.config.get(field)
            if there != here:
                raise ValueError(
                    f"{where}: field '{field}' is {there!r} in this folder and {here!r} now; "
                    "continue with the same setting, write to another folder, or remove this one"
                )
        for entry in index["chunks"]:
            chunk = SafetensorsChunk(self.folder / entry["path"], entry["num_samples"])
            self._keys.update(sample_key(record) for record in chunk.metadata())
        self._state = (index, {})

    def _check(self, tensors: dict[str, Tensor], length: int, where: str) -> None:
        """Compare the fields with one another and the folder's."""
        for name, tensor in tensors.items():
            inner = ["layers", "width"] if name.endswith("_layers") else ["width"] if name.endswith("_hidden") else []
            if tensor.ndim != 1 + len(inner) or len(tensor) != length:
                expected = ", ".join([str(length), *inner])
                raise ValueError(f"{where}: {name} {list(tensor.shape)}, expected [{expected}]")
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{where}: {name} is not finite as {str(tensor.dtype).removeprefix('torch.')}")
        fields, known = _fields(tensors), self._index["fields"]
        for pending, _ in self._pending.values():
            known = _fields(pending)
            break
        if known and known.keys() != fields.keys():
            raise ValueError(f"{where}: fields {', '.join(fields)}; the folder's samples have {', '.join(known)}")
        for name, shape in fields.items():
            if known and known[name] != shape:
                what = "width" if len(shape) == 1 else "shape"
                raise ValueError(
                    f"{where}: {name} has {what} {shape[0] if len(shape) == 1 else shape}, "
                    f"the folder's is {known[name][0] if len(shape) == 1 else known[name]}"
                )


def _fields(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The fields of a sample, each with the shape of a row."""
    return {name: list(tensor.shape[1:]) for name, tensor in tensors.items()}


def _record(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Metadata as it will be read."""
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())  # a lone surrogate has no bytes
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{where}: metadata cannot be stored as JSON ({error})") from None
    if size > LONGEST_RECORD:
        raise ValueError(f"{where}: metadata of {size} bytes; expected at most {LONGEST_RECORD}")
    record: dict[str, Any] = json.loads(text)
    return record


class _disk:
    """Where a writer writes: nothing once it is closed; of a full disk is said what it did not harm, and what to do."""

    def __init__(self, writer: HiddenStateWriter) -> None:
        self._folder, self._committed = writer.folder, writer.num_committed
        if not writer._lock.is_held:
            raise ValueError(f"{writer.folder}: this writer is closed; open another")

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(
                error.errno,
                f"{self._folder}: the disk is full; the {self._committed} samples committed so far are whole. "
                "Make space and run the same command again",
            ) from error
