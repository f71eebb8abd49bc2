"""Read a chunk folder lazily: one sample reads one sample, whichever writer left the folder."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, overload

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from egptlib.hidden_states._format import HEADER_KEY, is_legacy, read_index


@dataclass(frozen=True)
class HiddenSample:
    """One question about one scene. Position t is the one that predicts token t.

    Attributes:
        drafter_hidden: [length, drafter width] last hidden state after the final norm, in the stored dtype.
        target_hidden: [length, target width].
        metadata: `scene`, `sequence`, `question`, `drafter_text`, `target_text` and what else the writer noted.
        token_ids: int32 [length] the target's tokens. None, like the next two, in folders of the earlier writer.
        drafter_top1: int32 [length] the drafter's most likely token at the position.
        overlap: float32 [length] sum(min(p, q)) of the two next-token distributions.
    """

    drafter_hidden: Tensor
    target_hidden: Tensor
    metadata: dict[str, Any]
    token_ids: Tensor | None = None
    drafter_top1: Tensor | None = None
    overlap: Tensor | None = None

    def __len__(self) -> int:
        """Number of positions."""
        return self.drafter_hidden.shape[0]


@dataclass(frozen=True)
class HiddenBatch:
    """Samples padded to the longest: [sample, position, ...], zeros (ids: -1) where `mask` is false."""

    drafter_hidden: Tensor
    target_hidden: Tensor
    mask: Tensor
    metadata: list[dict[str, Any]]
    token_ids: Tensor | None = None
    drafter_top1: Tensor | None = None
    overlap: Tensor | None = None

    @property
    def match(self) -> Tensor:
        """Bool [sample, position]: the drafter's top-1 is the target's token. Exact where the path is "target".

        Raises:
            ValueError: the folder holds no token ids.
        """
        if self.token_ids is None or self.drafter_top1 is None:
            raise ValueError("this folder was left by the earlier writer and holds no token ids")
        return (self.token_ids == self.drafter_top1) & self.mask


class Chunk(Protocol):
    """One file of samples."""

    num_samples: int

    def metadata(self) -> list[dict[str, Any]]:
        """Return the metadata of all its samples without reading their states."""

    def sample(self, i: int) -> HiddenSample:
        """Read sample `i` of this file, 0 <= i < num_samples."""


@dataclass
class SafetensorsChunk:
    """A chunk of this library's own writer, memory-mapped on first use."""

    path: Path
    num_samples: int

    @cached_property
    def _file(self) -> Any:
        try:
            return safe_open(self.path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{self.path}: not a readable safetensors file ({error})") from None

    @cached_property
    def _metadata(self) -> list[dict[str, Any]]:
        records = json.loads((self._file.metadata() or {}).get(HEADER_KEY, "[]"))
        if len(records) != self.num_samples:
            raise ValueError(
                f"{self.path}: {len(records)} metadata records in its header, index.json says {self.num_samples}"
            )
        return records

    @cached_property
    def _offsets(self) -> list[int]:
        return self._file.get_tensor("offsets").tolist()

    def metadata(self) -> list[dict[str, Any]]:
        return self._metadata

    def sample(self, i: int) -> HiddenSample:
        rows = slice(self._offsets[i], self._offsets[i + 1])
        names = ("drafter_hidden", "target_hidden", "token_ids", "drafter_top1", "overlap")
        tensors = {name: self._file.get_slice(name)[rows] for name in names}
        return HiddenSample(metadata=dict(self._metadata[i]), **tensors)


@dataclass(frozen=True, eq=False)
class HiddenStates(Sequence[HiddenSample]):
    """A folder of hidden states, or a selection of it.

    hs = HiddenStates.open("hidden_states/streets_test")
    hs[0].drafter_hidden, hs[-1].metadata["question"], hs[10:20]
    for batch in hs.chunks(): ...
    """

    folder: Path
    config: dict[str, Any]
    _chunks: list[Chunk] = field(repr=False)
    _places: list[tuple[int, int]] = field(repr=False)  # (chunk, sample in it) of each sample

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "HiddenStates":
        """Open a folder left by `HiddenStateWriter` or by the earlier writer (`.pt` chunks).

        No state is read yet; the files must be there in the size the index says.

        Raises:
            FileNotFoundError: no index.json, or a chunk it lists is absent (named).
            ValueError: the index is not one of a chunk folder, or a chunk has another size than it says.
        """
        folder = Path(folder)
        index = read_index(folder)
        legacy = is_legacy(index)
        chunks: list[Chunk] = []
        for entry in index["chunks"]:
            path = folder / "chunks" / entry["path"]
            if not path.is_file():
                raise FileNotFoundError(f"{path}: listed in index.json, but not there")
            if "bytes" in entry and path.stat().st_size != entry["bytes"]:
                raise ValueError(f"{path}: {path.stat().st_size} bytes, index.json says {entry['bytes']}")
            if legacy:
                from egptlib.hidden_states._legacy import LegacyChunk

                chunks.append(LegacyChunk(path, entry["n_samples"]))
            else:
                chunks.append(SafetensorsChunk(path, entry["num_samples"]))
        places = [(c, i) for c, chunk in enumerate(chunks) for i in range(chunk.num_samples)]
        return cls(folder, dict(index.get("config", {})), chunks, places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, i: int) -> HiddenSample: ...
    @overload
    def __getitem__(self, i: slice) -> "HiddenStates": ...
    def __getitem__(self, i: int | slice) -> "HiddenSample | HiddenStates":
        """Read one sample (negative numbers count from the end), or make a selection without reading."""
        if isinstance(i, slice):
            return self._selection(self._places[i])
        try:
            chunk, place = self._places[i]
        except IndexError:
            raise IndexError(f"sample {i} of {len(self)} in {self.folder}") from None
        return self._chunks[chunk].sample(place)

    def metadata(self) -> list[dict[str, Any]]:
        """Return the metadata of every sample, without reading hidden states."""
        return [dict(self._chunks[c].metadata()[i]) for c, i in self._places]

    @property
    def sequences(self) -> list[str]:
        """The sequences in this selection, sorted. Empty for folders of the earlier writer, which has none."""
        return sorted({m["sequence"] for m in self.metadata() if m.get("sequence") is not None})

    def select(self, **fields: Any) -> "HiddenStates":
        """Return the samples whose metadata has these values: one value, or any of a list, tuple or set.

            hs.select(sequence="seq_03"), hs.select(scene=scenes.ids)

        Raises:
            ValueError: no sample has the field.
        """
        metadata = self.metadata()
        keep = [True] * len(metadata)
        for name, value in fields.items():
            if metadata and not any(name in m for m in metadata):
                raise ValueError(f"{self.folder}: no sample has the metadata field {name!r}")
            allowed = value if isinstance(value, list | tuple | set | frozenset) else (value,)
            keep = [kept and m.get(name) in allowed for kept, m in zip(keep, metadata)]
        return self._selection([place for place, kept in zip(self._places, keep) if kept])

    def chunks(self) -> Iterator[HiddenBatch]:
        """Yield the samples in order, those of one file together, padded with a mask. Never more than a file."""
        for c, group in groupby(self._places, key=lambda place: place[0]):
            samples = [self._chunks[c].sample(i) for _, i in group]
            lengths = torch.tensor([len(sample) for sample in samples])
            mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
            yield HiddenBatch(
                drafter_hidden=pad_sequence([s.drafter_hidden for s in samples], batch_first=True),
                target_hidden=pad_sequence([s.target_hidden for s in samples], batch_first=True),
                mask=mask,
                metadata=[s.metadata for s in samples],
                token_ids=_pad([s.token_ids for s in samples], -1),
                drafter_top1=_pad([s.drafter_top1 for s in samples], -1),
                overlap=_pad([s.overlap for s in samples], 0),
            )

    def _selection(self, places: list[tuple[int, int]]) -> "HiddenStates":
        return HiddenStates(self.folder, self.config, self._chunks, places)


def _pad(rows: list[Tensor | None], value: float) -> Tensor | None:
    present = [row for row in rows if row is not None]
    return pad_sequence(present, batch_first=True, padding_value=value) if present else None
