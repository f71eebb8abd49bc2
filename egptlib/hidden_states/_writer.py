"""Write hidden states in chunks, so that a run that is stopped can be taken up again."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from egptlib._paths import atomic_write, write_json
from egptlib.hidden_states._format import FORMAT, HEADER_KEY, VERSION, is_legacy, read_index
from egptlib.hidden_states._reader import HiddenStates

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HiddenStateWriter:
    """Append samples to a chunk folder; opened on a folder that exists, continue it.

        with HiddenStateWriter("hidden_states/streets_test", config={"pair": "mini"}) as writer:
            if ("seq_00/000000", "What is moving?") not in writer:
                writer.add(drafter_hidden, target_hidden, token_ids, drafter_top1, overlap, metadata)

    A sample is on disk when its chunk is full, or at `flush` and at the end of the block (also when the block
    ends by an error or Ctrl-C: samples are whole or absent). One writer per folder at a time.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: Mapping[str, Any] | None = None,
        chunk_size: int = 64,
        dtype: str = "float32",
    ) -> None:
        """Open `folder`, made when missing.

        Args:
            folder: the chunk folder.
            config: what the samples depend on, as plain JSON values; a folder holds samples of one config.
            chunk_size: samples per file.
            dtype: of the stored hidden states: "float32", "bfloat16" or "float16". It counts as config.

        Raises:
            ValueError: an unknown dtype, or the folder holds samples of another config (the field is named).
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
        if chunk_size < 1:
            raise ValueError(f"chunk_size {chunk_size}: expected at least 1")
        self.folder = Path(folder)
        self.chunk_size = chunk_size
        # Through JSON once, so that what is compared on resume has the same types (tuples become lists).
        self.config: dict[str, Any] = json.loads(json.dumps({**(config or {}), "dtype": dtype}))
        self._dtype = DTYPES[dtype]
        self._index: dict[str, Any] = {"format": FORMAT, "version": VERSION, "config": self.config}
        self._index |= {"drafter_width": None, "target_width": None, "num_samples": 0, "chunks": []}
        self._keys: set[tuple[str, str]] = set()
        self._pending: list[tuple[dict[str, Tensor], dict[str, Any]]] = []
        if (self.folder / "index.json").exists():
            self._resume()

    def __len__(self) -> int:
        """Number of samples, those not yet on disk included."""
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Iterate over (scene, question) of every sample, those not yet on disk included."""
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        """Whether the sample (scene, question) is there already."""
        return key in self._keys

    def add(
        self,
        drafter_hidden: Tensor,
        target_hidden: Tensor,
        token_ids: Tensor,
        drafter_top1: Tensor,
        overlap: Tensor,
        metadata: Mapping[str, Any],
    ) -> None:
        """Add one sample.

        Args:
            drafter_hidden: [length, drafter width], any float dtype, stored in the writer's.
            target_hidden: [length, target width].
            token_ids: [length] the target's tokens.
            drafter_top1: [length] what the drafter says there.
            overlap: [length] sum(min(p, q)).
            metadata: plain JSON values, with `scene` and `question`, which together name the sample.

        Raises:
            ValueError: lengths or widths that do not fit, a value that is not finite once stored, or a sample
                that is there already. Nothing is kept of the sample then.
        """
        try:
            key = (str(metadata["scene"]), str(metadata["question"]))
        except KeyError as missing:
            raise ValueError(f"metadata lacks {missing}; expected at least 'scene' and 'question'") from None
        where = f"scene {key[0]!r}, question {key[1]!r}"
        if key in self._keys:
            raise ValueError(f"{where}: already in {self.folder}")
        tensors = {
            "drafter_hidden": drafter_hidden.detach().to("cpu", self._dtype),
            "target_hidden": target_hidden.detach().to("cpu", self._dtype),
            "token_ids": token_ids.detach().to("cpu", torch.int32),
            "drafter_top1": drafter_top1.detach().to("cpu", torch.int32),
            "overlap": overlap.detach().to("cpu", torch.float32),
        }
        self._check(tensors, where)
        record = json.loads(json.dumps(dict(metadata)))
        for side in ("drafter", "target"):
            self._index[f"{side}_width"] = tensors[f"{side}_hidden"].shape[1]
        self._pending.append((tensors, record))
        self._keys.add(key)
        if len(self._pending) >= self.chunk_size:
            self.flush()

    def flush(self) -> None:
        """Write the samples added since the last chunk as one chunk, then the index."""
        if not self._pending:
            return
        columns = {name: [tensors[name] for tensors, _ in self._pending] for name in self._pending[0][0]}
        lengths = torch.tensor([0] + [len(part) for part in columns["token_ids"]])
        chunk = {name: torch.cat(parts) for name, parts in columns.items()}
        chunk["offsets"] = lengths.cumsum(0)
        start = self._index["num_samples"]
        path = self.folder / "chunks" / f"chunk_{start:06d}.safetensors"
        header = {HEADER_KEY: json.dumps([record for _, record in self._pending], ensure_ascii=False)}
        with atomic_write(path) as temporary:
            save_file(chunk, temporary, metadata=header)
        entry = {
            "path": path.name,
            "start": start,
            "num_samples": len(self._pending),
            "num_positions": int(chunk["offsets"][-1]),
            "bytes": path.stat().st_size,
        }
        index = self._index | {
            "num_samples": start + len(self._pending),
            "chunks": [*self._index["chunks"], entry],
        }
        write_json(self.folder / "index.json", index)
        self._index, self._pending = index, []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def _resume(self) -> None:
        index = read_index(self.folder)
        where = self.folder / "index.json"
        if is_legacy(index):
            raise ValueError(f"{where}: written by the earlier writer; it can be read, but not continued")
        for field in sorted(index["config"].keys() | self.config.keys()):
            there, here = index["config"].get(field), self.config.get(field)
            if there != here:
                raise ValueError(
                    f"{where}: field '{field}' is {there!r} in this folder and {here!r} now; "
                    "continue with the same setting, write to another folder, or remove this one"
                )
        self._keys = {(m["scene"], m["question"]) for m in HiddenStates.open(self.folder).metadata()}
        self._index = index

    def _check(self, tensors: dict[str, Tensor], where: str) -> None:
        length = len(tensors["token_ids"])
        for name, tensor in tensors.items():
            dims = 2 if name.endswith("_hidden") else 1
            if tensor.ndim != dims or len(tensor) != length:
                expected = f"[{length}, width]" if dims == 2 else f"[{length}]"
                raise ValueError(f"{where}: {name} {list(tensor.shape)}, expected {expected}")
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{where}: {name} is not finite as {str(tensor.dtype).removeprefix('torch.')}")
        for side in ("drafter", "target"):
            width, known = tensors[f"{side}_hidden"].shape[1], self._index[f"{side}_width"]
            if known not in (None, width):
                raise ValueError(f"{where}: {side}_hidden has width {width}, the folder's is {known}")
