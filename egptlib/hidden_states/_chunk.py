"""One file of samples: what a reader gets out of it, and how it knows that nothing is wrong with it."""

from __future__ import annotations

import json
import mmap
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from egptlib.hidden_states._format import MappedFile, as_bytes, chunk_checksum, sample_checksum
from egptlib.hidden_states._sample import HiddenSample

_MADV_POPULATE_READ = 22  # map all pages in one call, a third of the time of one fault each; not in Python's mmap yet


class Chunk(Protocol):
    """One file of samples."""

    path: Path
    num_samples: int

    def metadata(self) -> list[dict[str, Any]]:
        """Return the metadata of all its samples without reading their states."""

    def sample(self, i: int) -> HiddenSample:
        """Sample `i` of this file, 0 <= i < num_samples, as views of the file where that is possible."""

    def prefetch(self) -> None:
        """Read the file ahead, for a reader that goes through all of it in order."""

    def release(self) -> None:
        """Give the memory of pages already read back to the system. Views stay valid."""


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
    def _offsets(self) -> list[int]:
        return self.file.tensor("offsets").tolist()

    @cached_property
    def _checksums(self) -> list[int]:
        return self.file.tensor("checksums").tolist()

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

    def sample(self, i: int) -> HiddenSample:
        return HiddenSample.of(self.rows(i), dict(self._records[i]))

    def rows(self, i: int) -> dict[str, Tensor]:
        """The rows of sample `i`, by field, as they are in the file, checked."""
        columns = self.columns
        first, last = self._offsets[i], self._offsets[i + 1]
        rows = {name: column[first:last] for name, column in columns.items()}
        if sample_checksum(first, last, map(as_bytes, rows.values())) != self._checksums[i]:
            scene = self._records[i].get("scene")
            raise ValueError(f"{self.path}: damaged: sample {i} of this file (scene {scene!r}) has wrong bytes")
        return rows

    def prefetch(self) -> None:
        with suppress(OSError):  # a kernel before 5.14 does not know the second one: pages come one fault at a time
            self.file.mapping.madvise(mmap.MADV_WILLNEED)
            self.file.mapping.madvise(_MADV_POPULATE_READ)

    def release(self) -> None:
        self.file.mapping.madvise(mmap.MADV_DONTNEED)
