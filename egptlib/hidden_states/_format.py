"""A file of samples, byte by byte. FORMAT.md beside this module says the same in prose."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_64_intdigest

from egptlib._paths import atomic_write, parse_json

FORMAT = "egptlib hidden states"
VERSION = 3
READABLE = (2, 3)
DTYPES = {
    "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "U8": torch.uint8,
}  # fmt: skip
_MADV_POPULATE_READ = 22  # not in Python's mmap yet
_WORTH_A_CALL = 2**16  # bytes
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def as_bytes(tensor: Tensor) -> np.ndarray:
    """The bytes of a contiguous CPU tensor, uint8 [n], without copying."""
    flat = tensor.reshape(-1)
    if flat.stride(0) != 1:  # a single value taken from a column counts as contiguous, but cannot be viewed as bytes
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy()


def row_bytes(tensor: Tensor) -> np.ndarray:
    """The same by row, uint8 [rows, bytes of a row]."""
    return as_bytes(tensor).reshape(len(tensor), -1) if len(tensor) else np.empty((0, 8), np.uint8)


def write_chunk(
    path: Path,
    columns: Mapping[str, Sequence[Tensor]],
    records: Sequence[Mapping[str, Any]],
    start: int,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Write samples as one file, atomically and synced; nothing is put together in memory.

    Args:
        columns: per field one contiguous CPU tensor [length, ...] per sample, possibly memory-mapped.
        records: the metadata of the samples.
        start: number of the first one in its folder.
        config: of the folder, so that an index can be rebuilt from chunks alone.

    Returns:
        The chunk's entry for the index; `path` is the bare file name.
    """
    offsets = [0]
    for part in next(iter(columns.values())):
        offsets.append(offsets[-1] + len(part))
    checksums = [
        sample_checksums(
            np.array([start]), np.array([stop]), [row_bytes(parts[i]) for parts in columns.values()], VERSION
        )[0]
        for i, (start, stop) in enumerate(pairwise(offsets))
    ]
    text = json.dumps(list(records), ensure_ascii=False, allow_nan=False).encode()
    tensors: dict[str, Sequence[Tensor]] = {
        "offsets": [torch.tensor(offsets)],
        "checksums": [torch.tensor(checksums, dtype=torch.int64)],
        **columns,
        "metadata": [torch.frombuffer(bytearray(zlib.compress(text, 6)), dtype=torch.uint8)],
    }
    told = {"format": FORMAT, "version": str(VERSION), "config": json.dumps(dict(config)), "start": str(start)}
    told["columns"] = " ".join(columns)
    head = file_header(tensors, told | {"checksum": chunk_checksum(told, as_bytes(tensors["metadata"][0]))})
    digest, size = hashlib.sha256(), 0
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        for data in (memoryview(head), *(as_bytes(part).data for parts in tensors.values() for part in parts)):
            file.write(data)
            digest.update(data)
            size += len(data)
    return {
        "path": path.name, "start": start, "num_samples": len(records), "num_positions": offsets[-1],
        "bytes": size, "sha256": digest.hexdigest(),
    }  # fmt: skip


def file_header(tensors: Mapping[str, Sequence[Tensor]], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a safetensors file that holds `tensors`, each the rows of its parts one after the other."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, parts in tensors.items():
        start, end = end, end + sum(part.numel() * part.element_size() for part in parts)
        shape = [sum(len(part) for part in parts), *parts[0].shape[1:]]
        table[name] = {"dtype": _NAMES[parts[0].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tensor_end(name: str, entry: Mapping[str, Any], start: int) -> int:
    """Where a tensor of a header ends that has to begin at `start`; nothing is allocated for what it declares."""
    (first, last), shape = entry["data_offsets"], entry["shape"]
    if not all(type(number) is int and number >= 0 for number in (first, last, *shape)):
        raise ValueError(f"tensor {name!r}: shape {shape}, bytes {first} to {last}")
    if first != start or last - first != DTYPES[entry["dtype"]].itemsize * math.prod(shape):
        raise ValueError(f"tensor {name!r} does not fit")
    return last


def chunk_checksum(told: Mapping[str, str], metadata: np.ndarray) -> str:
    names = ("format", "version", "config", "start", "columns")
    return hashlib.sha256("\n".join(told[name] for name in names).encode() + metadata.tobytes()).hexdigest()


@dataclass
class MappedFile:
    """A safetensors file, memory-mapped on first use; its tensors are views of the mapping.

    Raises:
        ValueError: on first use, when the file is not what its header says.
    """

    path: Path

    @cached_property
    def _opened(self) -> tuple[mmap.mmap, dict[str, Any], int]:
        """Mapping, header, and where the tensors begin."""
        try:
            with self.path.open("rb") as file:
                # Private: a caller who writes into a view changes neither the file nor crashes.
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            start = 8 + int.from_bytes(mapping[:8], "little")
            if start > len(mapping):
                raise ValueError(f"a header of {start - 8} bytes in a file of {len(mapping)}")
            header = parse_json(mapping[8:start], "its header")
            end = start
            for name, entry in header.items():
                if name != "__metadata__":
                    end = start + _tensor_end(name, entry, end - start)
            told = header.get("__metadata__", {})
            if not all(isinstance(value, str) for value in told.values()):
                raise ValueError("__metadata__ holds something else than text")
            if end != len(mapping):
                raise ValueError(f"{end} bytes expected, {len(mapping)} found")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path}: not a readable safetensors file ({error})") from None
        return mapping, header, start

    @property
    def mapping(self) -> mmap.mmap:
        return self._opened[0]

    @property
    def told(self) -> dict[str, str]:
        """What the header says besides the tensors."""
        return self._opened[1].get("__metadata__", {})

    @cached_property
    def _bytes(self) -> Tensor:
        return torch.frombuffer(self.mapping, dtype=torch.uint8)

    def map_pages(self, view: Tensor) -> None:
        """Map all pages of a view of this file in one call, a third of the time of one fault each."""
        size, start = view.numel() * view.element_size(), view.data_ptr() - self._bytes.data_ptr()
        if size >= _WORTH_A_CALL and 0 <= start <= len(self.mapping) - size:  # not where `tensor` had to copy
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            with suppress(OSError):  # a kernel before 5.14 does not know it
                self.mapping.madvise(_MADV_POPULATE_READ, page, start + size - page)

    def tensor(self, name: str) -> Tensor:
        """A view of the whole tensor.

        Raises:
            ValueError: the file has no such tensor.
        """
        _, header, start = self._opened
        if name not in header:
            raise ValueError(f"{self.path}: tensor {name!r} is missing")
        entry = header[name]
        first, last = entry["data_offsets"]
        dtype = DTYPES[entry["dtype"]]
        data = self._bytes[start + first : start + last]
        if (start + first) % dtype.itemsize:  # only where a caller's own writer left it unaligned
            data = data.clone()
        return data.view(dtype).view(entry["shape"])


def sample_checksums(starts: np.ndarray, stops: np.ndarray, columns: Iterable[np.ndarray], version: int) -> np.ndarray:
    """Checksums of some samples of a chunk, int64 [samples].

    Version 3: XXH3-64 of the sample's rows in one column after the other, each seeded with the hash before it, the
    first with both offsets: bytes that changed or moved give another one, as fast as memory.
    Version 2: a sum of 64-bit words, which bytes that moved by words leave as it is.

    Args:
        starts, stops: int64 [samples] each: the rows of each sample, numbered through the chunk.
        columns: bytes of these rows, uint8 [rows, bytes of a row], one array per column; the samples lie in them one
            behind the other.
        version: of the chunk's format.
    """
    if version == 2:
        return _sums(starts, stops, columns)
    ends = np.cumsum(stops - starts).tolist()
    hashes = (starts + (stops << 32)).astype("<u8").tolist()
    for column in columns:
        size, data, start = column.shape[1], column.reshape(-1).data, 0
        for i, end in enumerate(ends):
            hashes[i] = xxh3_64_intdigest(data[start : end * size], hashes[i])
            start = end * size
    return np.array(hashes, dtype="<u8").view("<i8")


def _sums(starts: np.ndarray, stops: np.ndarray, columns: Iterable[np.ndarray]) -> np.ndarray:
    """Both offsets and all bytes, as little-endian 64-bit words (zeros behind the last of a column), modulo 2**64."""
    total = (starts + stops).astype("<u8")
    filled = np.flatnonzero(stops > starts)  # reduceat gives a sample without rows those of the next
    if len(filled):
        rows = (np.cumsum(stops - starts) - (stops - starts))[filled]
        narrow: dict[int, np.ndarray] = {}
        for column in columns:
            size = column.shape[1]
            if size % 8 == 0:
                words = column.reshape(-1).view("<u8")
                total[filled] += np.add.reduceat(words, rows * (size // 8), dtype=np.uint64)
            else:  # bytes of equally narrow columns have the same places, so they are added before they are moved there
                narrow[size] = narrow.get(size, 0) + column.astype("<u8")
        for column in narrow.values():
            total[filled] += _narrow_sums(column, rows)
    return total.view("<i8")


def _narrow_sums(column: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums, uint64 [samples], of bytes (or sums of bytes) uint64 [rows, bytes of a row], each moved to its place in the
    64-bit words of its sample; a sample goes on to the next's start."""
    size = column.shape[1]
    rows = np.arange(len(column)) - np.repeat(starts, np.diff(starts, append=len(column)))
    places = rows[:, None] * size + np.arange(size)
    words = (column << (8 * (places % 8)).astype("<u8")).reshape(-1)
    return np.add.reduceat(words, starts * size, dtype=np.uint64)
