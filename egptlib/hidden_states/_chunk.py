"""One file of samples: what a reader gets out of it, and how it knows that nothing is wrong with it."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from egptlib._paths import parse_json
from egptlib.hidden_states._format import READABLE, MappedFile, as_bytes, chunk_checksum, row_bytes, sample_checksums
from egptlib.hidden_states._sample import PROMPTS, HiddenSample, StoredPrompt, widened

LONGEST_RECORD = 2**20  # bytes of a sample's metadata as JSON; what a file declares to be more is not unpacked
_FIELDS = {field.name for field in fields(HiddenSample)} - {"metadata", "prompt"}
_SMALL = 2**18  # bytes of a sample: where a copy of its rows costs less than handling it by itself


def sample_key(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Scene and question, which together name a sample."""
    return str(metadata["scene"]), str(metadata["question"])


class Chunk(Protocol):
    """One file of samples."""

    path: Path
    num_samples: int

    def metadata(self) -> list[dict[str, Any]]:
        """Return the metadata of all its samples without reading their states."""

    def lengths(self) -> np.ndarray:
        """Return the number of rows of each of its samples, int64, without reading their states."""

    def samples(self, first: int, last: int) -> list[HiddenSample]:
        """Samples `first` to `last` (exclusive) of this file, as views of the file where that is possible."""

    def pick(self, numbers: Sequence[int]) -> list[HiddenSample]:
        """Samples anywhere in this file, in the order asked."""

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
    needed: ClassVar[frozenset[str]] = frozenset({"drafter_hidden", "target_hidden"})

    def __post_init__(self) -> None:
        self.file = MappedFile(self.path)

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.num_samples)  # another process maps the file anew

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        if self.version not in READABLE:
            raise ValueError(f"{self.path}: format version {self.version}; expected one of {READABLE}")
        packed = as_bytes(self._whole("metadata", torch.uint8))
        try:
            if self.file.told["checksum"] != chunk_checksum(self.file.told, packed):
                raise ValueError("another checksum than its header says")
            unpacking = zlib.decompressobj()
            text = unpacking.decompress(packed.data, LONGEST_RECORD * (1 + self.num_samples))
            if not unpacking.eof:
                raise ValueError("cut short, or far too long")
            records = parse_json(text, "metadata")
        except (ValueError, KeyError, zlib.error) as error:
            raise ValueError(f"{self.path}: damaged: its metadata cannot be read ({error})") from None
        if not isinstance(records, list) or len(records) != self.num_samples:
            count = len(records) if isinstance(records, list) else "no list of"
            raise ValueError(f"{self.path}: {count} metadata records, index.json says {self.num_samples}")
        if not all(isinstance(record, dict) and {"scene", "question"} <= record.keys() for record in records):
            raise ValueError(f"{self.path}: metadata: expected an object with 'scene' and 'question' for each sample")
        return records

    @property
    def version(self) -> int:
        """Of the format; 0 where the header says none."""
        told = self.file.told.get("version", "")
        return int(told) if told.isdecimal() else 0

    @cached_property
    def _offsets(self) -> np.ndarray:
        return self._whole("offsets", torch.int64).numpy()

    @cached_property
    def _checksums(self) -> np.ndarray:
        return self._whole("checksums", torch.int64).numpy()

    def _whole(self, name: str, dtype: torch.dtype) -> Tensor:
        tensor = self.file.tensor(name)
        if tensor.dtype != dtype or tensor.ndim != 1:
            raise ValueError(
                f"{self.path}: tensor {name!r} is {tensor.dtype} {list(tensor.shape)}; expected {dtype} [n]"
            )
        return tensor

    @cached_property
    def columns(self) -> dict[str, Tensor]:
        """The fields, each with one row per position of the file."""
        self.metadata()  # its checksum is the header's, which says what columns there are
        columns = {name: self.file.tensor(name) for name in self.file.told["columns"].split()}
        if unknown := columns.keys() - _FIELDS:
            raise ValueError(f"{self.path}: unknown column {min(unknown)!r}")
        if missing := self.needed - columns.keys():
            raise ValueError(f"{self.path}: column {min(missing)!r} is missing")
        sizes = [len(self._offsets) - 1, len(self._checksums)]
        if sizes != [self.num_samples] * 2 or any(not c.ndim or len(c) != self._offsets[-1] for c in columns.values()):
            raise ValueError(f"{self.path}: damaged: its tensors do not fit its {self.num_samples} samples")
        return columns

    def metadata(self) -> list[dict[str, Any]]:
        return self._records

    def lengths(self) -> np.ndarray:
        return np.diff(self._offsets)

    def samples(self, first: int, last: int) -> list[HiddenSample]:
        return self._made(range(first, last), *self._block(first, last))

    def pick(self, numbers: Sequence[int]) -> list[HiddenSample]:
        """As views each by itself; where they are small, out of one copy of their rows, in a fifth of the time."""
        places = np.asarray(numbers)
        starts, stops = self._offsets[places], self._offsets[places + 1]
        row = sum(column[:1].numel() * column.element_size() for column in self.columns.values())
        lengths = stops - starts
        if len(places) < 2 or lengths.sum() * row >= len(places) * _SMALL:
            return [sample for i in numbers for sample in self.samples(i, i + 1)]
        self._check_offsets(places, starts, stops)
        before = np.cumsum(lengths) - lengths
        rows = torch.from_numpy(np.arange(lengths.sum()) + np.repeat(starts - before, lengths))
        block = {name: column[rows] for name, column in self.columns.items()}
        self._check_bytes(places, starts, stops, block)
        return self._made(numbers, block, lengths.tolist())

    def _made(self, numbers: Sequence[int], block: dict[str, Tensor], lengths: list[int]) -> list[HiddenSample]:
        """All rows of some samples by field, cut into these."""
        columns = {name: widened(name, rows).split(lengths) for name, rows in block.items()}
        return [
            HiddenSample(**dict(zip(columns, rows)), metadata=dict(self._records[i]), prompt=self._prompt(i))
            for i, *rows in zip(numbers, *columns.values())
        ]

    @cached_property
    def _has_prompts(self) -> bool:
        return bool(parse_json(self.file.told["config"], f"{self.path}: config").get("prompt_rows"))

    def _prompt(self, i: int) -> StoredPrompt | None:
        if not self._has_prompts:
            return None
        return StoredPrompt(self.path.parent.parent / PROMPTS, *sample_key(self._records[i]))

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
        numbers, starts, stops = np.arange(first, last), offsets[:-1], offsets[1:]
        self._check_offsets(numbers, starts, stops)
        block = {name: column[offsets[0] : offsets[-1]] for name, column in columns.items()}
        for rows in block.values():
            self.file.map_pages(rows)
        self._check_bytes(numbers, starts, stops, block)
        return block, (stops - starts).tolist()

    def _check_offsets(self, numbers: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
        wrong = (starts < 0) | (stops < starts) | (stops > self._offsets[-1])
        if wrong.any():
            raise ValueError(f"{self.path}: damaged: sample {numbers[wrong][0]} of this file has wrong offsets")

    def _check_bytes(
        self, numbers: np.ndarray, starts: np.ndarray, stops: np.ndarray, block: dict[str, Tensor]
    ) -> None:
        found = sample_checksums(starts, stops, map(row_bytes, block.values()), self.version)
        for i in numbers[found != self._checksums[numbers]]:
            scene = self._records[i].get("scene")
            raise ValueError(f"{self.path}: damaged: sample {i} of this file (scene {scene!r}) has wrong bytes")

    def read_ahead(self) -> None:
        self.file.mapping.madvise(mmap.MADV_WILLNEED)

    def release(self, more: bool) -> None:
        self.file.mapping.madvise(mmap.MADV_DONTNEED)
