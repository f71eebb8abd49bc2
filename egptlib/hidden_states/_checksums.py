"""What tells that the bytes of a sample are those that were written; FORMAT.md says the same in prose."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from xxhash import xxh3_64_intdigest


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
