"""Read a chunk folder lazily: one sample reads one sample, whichever writer left the folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from egptlib._whole import whole_numbers
from egptlib.hidden_states._chunk import Chunk, SafetensorsChunk
from egptlib.hidden_states._heads import Head
from egptlib.hidden_states._index import is_legacy, present, read_index
from egptlib.hidden_states._legacy import LegacyChunk
from egptlib.hidden_states._sample import HiddenBatch, HiddenSample, RaggedBatch


@dataclass(frozen=True, eq=False)
class HiddenStates(Sequence[HiddenSample]):
    """A folder of hidden states, or a selection of it.

    Every sample is checked against its checksum when it is read; wrong bytes raise a ValueError.

    Example:
        >>> from egptlib import extract, load_pair, open_scenes
        >>> extraction = extract(load_pair(), open_scenes("streets", num_sequences=1)[:1], "states", num_questions=2)
        >>> hs = HiddenStates.open("states")
        >>> hs[0].drafter_hidden.shape == hs[0].target_hidden.shape, hs[-1].metadata["question"]
        (True, 'Can you elaborate on the elements of the scene provided?')
        >>> len(hs[1:]), len(hs.select(sequence="none")), sum(1 for batch in hs.stream(64, shuffle=True))
        (1, 0, 1)
    """

    folder: Path
    config: dict[str, Any]
    _chunks: list[Chunk] = field(repr=False)
    _places: list[tuple[int, int]] = field(repr=False)  # (chunk, sample in it) of each sample
    _heads: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> HiddenStates:
        """Open a folder left by `HiddenStateWriter` or by the earlier writer (`.pt` chunks).

        No state is read yet; the index must be whole, and the files there in the size it says.

        Raises:
            FileNotFoundError: no index.json, or a file it lists is absent (named).
            ValueError: the index is damaged or not one of a chunk folder, or a file has another size than it says.
        """
        folder = Path(folder)
        while True:
            index = read_index(folder)
            try:
                chunks = _chunks(folder, index)
                break
            except FileNotFoundError:
                if read_index(folder) == index:  # otherwise a writer has just made one file of several
                    raise
        heads = index.get("heads", {})
        places = [(c, i) for c, chunk in enumerate(chunks) for i in range(chunk.num_samples)]
        return cls(folder, dict(index.get("config", {})), chunks, places, heads)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, i: int) -> HiddenSample: ...
    @overload
    def __getitem__(self, i: slice | Sequence[int] | np.ndarray | torch.Tensor) -> HiddenStates: ...
    def __getitem__(self, i: Any) -> HiddenSample | HiddenStates:
        """Read one sample into memory (negative numbers count from the end), or make a selection without reading.

        A selection is a slice, numbers, or a mask with a bool for each sample.
        """
        if isinstance(i, slice):
            return self._selection(self._places[i])
        if np.ndim(i) == 1 and np.asarray(i).dtype == bool:
            if len(i) != len(self):
                raise IndexError(f"mask of {len(i)} samples for {len(self)} in {self.folder}")
            i = np.flatnonzero(i)
        try:
            if np.ndim(i) == 1:
                return self._selection([self._places[number] for number in whole_numbers(i, "samples")])
            chunk, place = self._places[i]
        except IndexError:
            raise IndexError(f"sample {i} of {len(self)} in {self.folder}") from None
        return self._chunks[chunk].samples(place, place + 1)[0].clone()

    def metadata(self) -> list[dict[str, Any]]:
        """Return the metadata of every sample, without reading hidden states."""
        return [dict(self._chunks[c].metadata()[i]) for c, i in self._places]

    @property
    def lengths(self) -> torch.Tensor:
        """int64 [samples]: the number of positions of each, without reading hidden states."""
        by_chunk = {c: self._chunks[c].lengths() for c in {c for c, _ in self._places}}
        return torch.tensor([int(by_chunk[c][i]) for c, i in self._places], dtype=torch.int64)

    @property
    def sequences(self) -> list[str]:
        """The sequences in this selection, sorted. Empty for folders of the earlier writer, which has none."""
        return sorted({m["sequence"] for m in self.metadata() if m.get("sequence") is not None})

    @property
    def target_head(self) -> Head:
        """The target's final norm and lm head, read from the folder.

        Raises:
            ValueError: the folder has none (the earlier writer left none), or the file is damaged.
        """
        return self._head("target")

    @property
    def drafter_head(self) -> Head:
        """The drafter's; as `target_head`."""
        return self._head("drafter")

    def select(self, **fields: Any) -> HiddenStates:
        """Return the samples whose metadata has these values: one value, or any of several.

            hs.select(sequence="seq_03"), hs.select(scene=scenes.ids)

        Raises:
            ValueError: no sample has the field.
        """
        metadata = self.metadata()
        keep = [True] * len(metadata)
        for name, value in fields.items():
            if metadata and not any(name in m for m in metadata):
                raise ValueError(f"{self.folder}: no sample has the metadata field {name!r}")
            value = value.tolist() if hasattr(value, "tolist") else value
            allowed = set(value) if isinstance(value, Iterable) and not isinstance(value, str) else {value}
            keep = [kept and m.get(name) in allowed for kept, m in zip(keep, metadata)]
        return self._selection([place for place, kept in zip(self._places, keep) if kept])

    def stream(self, batch_size: int, shuffle: bool = False, seed: int = 0) -> Iterator[RaggedBatch]:
        """Yield all samples once, as views of the memory-mapped files.

        Memory stays at about one batch, whatever the folder holds: after each batch its pages are given back to the
        system, and a view used again later is read from the file again.

        Args:
            batch_size: samples per batch; the last may be smaller.
            shuffle: in a uniformly random order over the whole selection, otherwise in the order they were written.
            seed: of that order; another one each epoch.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: expected at least 1")
        places = self._places
        if shuffle:
            order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
            places = [places[i] for i in order.tolist()]
        # Chunks most of which is wanted, one sample after the other, are read ahead, each when its first batch comes.
        wanted = Counter() if shuffle else Counter(c for c, _ in places)
        ahead = {c for c, count in wanted.items() if 2 * count > self._chunks[c].num_samples}
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            used = dict.fromkeys(c for c, _ in part)
            for c in ahead & used.keys():
                self._chunks[c].read_ahead()
            ahead -= used.keys()
            if shuffle:
                yield RaggedBatch(self._picked(part))
            else:
                yield RaggedBatch([sample for c, i, j in _runs(part) for sample in self._chunks[c].samples(i, j)])
            following = set() if shuffle else {c for c, _ in places[start + batch_size : start + batch_size + 1]}
            for c in used:
                self._chunks[c].release(c in following)

    def chunks(self, batch_size: int = 64) -> Iterator[HiddenBatch]:
        """Yield the samples in order, padded with a mask, `batch_size` at a time."""
        for batch in self.stream(batch_size):
            yield batch.padded()

    def _picked(self, places: Sequence[tuple[int, int]]) -> list[HiddenSample]:
        """Samples anywhere, in this order, asked of each chunk at once."""
        by_chunk: dict[int, list[int]] = {}
        for c, i in places:
            by_chunk.setdefault(c, []).append(i)
        found = {c: iter(self._chunks[c].pick(numbers)) for c, numbers in by_chunk.items()}
        return [next(found[c]) for c, _ in places]

    def _head(self, side: str) -> Head:
        if side not in self._heads:
            raise ValueError(f"{self.folder}: the {side}'s head is not in this folder; extract again to save it")
        return Head.load(self.folder / self._heads[side]["path"])

    def _selection(self, places: list[tuple[int, int]]) -> HiddenStates:
        return HiddenStates(self.folder, self.config, self._chunks, places, self._heads)


def _chunks(folder: Path, index: dict[str, Any]) -> list[Chunk]:
    """The files that an index lists, after a look at their sizes."""
    chunks: list[Chunk] = []
    for entry in index["chunks"]:
        if is_legacy(index):
            count = entry["n_samples"]
            chunks.append(LegacyChunk(present(folder / "chunks" / entry["path"], entry, count), count))
        else:
            count = entry["num_samples"]
            chunks.append(SafetensorsChunk(present(folder / entry["path"], entry, count), count))
    for entry in index.get("heads", {}).values():
        present(folder / entry["path"], entry)
    return chunks


def _runs(places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """(chunk, first, last) of the stretches in which one sample follows the other, last exclusive."""
    first = 0
    for i in range(1, len(places) + 1):
        c, place = places[i - 1]
        if i == len(places) or places[i] != (c, place + 1):
            yield c, places[first][1], place + 1
            first = i
