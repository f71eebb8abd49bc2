"""One file of samples: what a reader gets out of it, and how it knows that nothing is wrong with it."""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from egptlib.hidden_states._format import MappedFile, as_bytes, chunk_checksum, row_bytes, sample_checksums
from egptlib.hidden_states._sample import HiddenSample, widened


class Chunk(Protocol):
    """One file of samples."""

    path: Path
    num_samples: int

    def metadata(self) -> list[dict[str, Any]]:
        """Return the metadata of all its samples without reading their states."""

    def samples(self, first: int, last: int) -> list[HiddenSample]:
        """Samples `first` to `last` (exclusive) of this file, as views of the file where that is possible."""

    def read_ahead(self) -> None:
        """Have the system read the file, for a reader that goes through most of it in order."""

    def release(self, more: bool) -> None:
        """Give the memory of pages already read back to the system. Views stay valid.

        Args:
            more: the next samples come from this file too.
        """


@dataclass
class SafetensorsChunk:
    """A chunk of this library's own writer, memory-mapped on first use.

    Raises:
        ValueError: on use, when bytes are not those that were written (the file and the sample are named).
    """

    path: Path
    num_samples: int
    file: MappedFile = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.file = MappedFile(self.path)

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        packed = as_bytes(self.file.tensor("metadata"))
        try:
            if self.file.told["checksum"] != chunk_checksum(self.file.told, packed):
                raise ValueError("another checksum than its header says")
            records = json.loads(zlib.decompress(packed.data))
        except (ValueError, KeyError, zlib.error) as error:
            raise ValueError(f"{self.path}: damaged: its metadata cannot be read ({error})") from None
        if len(records) != self.num_samples:
            raise ValueError(f"{self.path}: {len(records)} metadata records, index.json says {self.num_samples}")
        return records

    @cached_property
    def _offsets(self) -> np.ndarray:
        return self.file.tensor("offsets").numpy()

    @cached_property
    def _checksums(self) -> np.ndarray:
        return self.file.tensor("checksums").numpy()

    @cached_property
    def columns(self) -> dict[str, Tensor]:
        """The fields, each with one row per position of the file."""
        self.metadata()  # its checksum is the header's, which says what columns there are
        columns = {name: self.file.tensor(name) for name in self.file.told["columns"].split()}
        sizes = [len(self._offsets) - 1, len(self._checksums)]
        if sizes != [self.num_samples] * 2 or any(len(c) != self._offsets[-1] for c in columns.values()):
            raise ValueError(f"{self.path}: damaged: its tensors do not fit its {self.num_samples} samples")
        return columns

    def metadata(self) -> list[dict[str, Any]]:
        return self._records

    def samples(self, first: int, last: int) -> list[HiddenSample]:
        block, lengths = self._block(first, last)
        columns = {name: widened(name, rows).split(lengths) for name, rows in block.items()}
        records = self._records[first:last]
        return [
            HiddenSample(**dict(zip(columns, rows)), metadata=dict(record))
            for *rows, record in zip(*columns.values(), records)
        ]

    def split(self, first: int, last: int) -> dict[str, Sequence[Tensor]]:
        """The rows of each of the samples `first` to `last` (exclusive), by field, as they are in the file, checked."""
        block, lengths = self._block(first, last)
        return {name: rows.split(lengths) for name, rows in block.items()}

    def _block(self, first: int, last: int) -> tuple[dict[str, Tensor], list[int]]:
        """Some consecutive samples: all their rows by field, checked, and the length of each.

        Raises:
            ValueError: some bytes are not those that were written; the first such sample is named.
        """
        columns, offsets = self.columns, self._offsets[first : last + 1]
        lengths = np.diff(offsets)
        if lengths.min(initial=0) < 0 or offsets[0] < 0 or offsets[-1] > self._offsets[-1]:
            raise ValueError(f"{self.path}: damaged: samples {first} to {last - 1} of this file have wrong offsets")
        block = {name: column[offsets[0] : offsets[-1]] for name, column in columns.items()}
        for rows in block.values():
            self.file.map_pages(rows)
        found = sample_checksums(offsets, map(row_bytes, block.values()))
        for i in np.flatnonzero(found != self._checksums[first:last]):
            scene = self._records[first + i].get("scene")
            raise ValueError(f"{self.path}: damaged: sample {first + i} of this file (scene {scene!r}) has wrong bytes")
        return block, lengths.tolist()

    def read_ahead(self) -> None:
        self.file.mapping.madvise(mmap.MADV_WILLNEED)

    def release(self, more: bool) -> None:
        self.file.mapping.madvise(mmap.MADV_DONTNEED)
