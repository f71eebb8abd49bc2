"""Chunks of the earlier writer: `torch.save` of a dict, zero-padded. Users hold 80 GB of them."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egptlib.hidden_states._sample import HiddenSample

_FIELDS = ("egpt_hidden", "vl_hidden", "seq_lens", "metadata")


@dataclass
class LegacyChunk:
    """One `.pt` file: `egpt_hidden`, `vl_hidden` [n, longest, hidden], `seq_lens` [n], `metadata` list of dicts.

    Memory-mapped, so that a sample reads its own rows only; unpickling is restricted to tensors and plain values.
    """

    path: Path
    num_samples: int

    @cached_property
    def _content(self) -> dict[str, Any]:
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).split("\n", 1)[0]
            raise ValueError(f"{self.path}: not a readable chunk of the earlier writer ({reason})") from None
        missing = [name for name in _FIELDS if not isinstance(content, dict) or name not in content]
        if missing:
            raise ValueError(f"{self.path}: field '{missing[0]}' is missing; expected {', '.join(_FIELDS)}")
        for name in _FIELDS:
            if len(content[name]) != self.num_samples:
                raise ValueError(
                    f"{self.path}: field '{name}' has {len(content[name])} samples, index.json says {self.num_samples}"
                )
        return content

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.num_samples)  # another process maps the file anew

    def read_ahead(self) -> None:
        """Nothing: a file is mapped when it is used."""

    def release(self, more: bool) -> None:
        """Unmap the file, unless there is `more` to read; the next use maps it again, which reads all metadata."""
        if not more:
            self.__dict__.pop("_content", None)

    def metadata(self) -> list[dict[str, Any]]:
        return [_in_our_words(record) for record in self._content["metadata"]]

    def lengths(self) -> np.ndarray:
        return np.array([int(length) for length in self._content["seq_lens"]])

    def pick(self, numbers: Sequence[int]) -> list[HiddenSample]:
        return [sample for i in numbers for sample in self.samples(i, i + 1)]

    def samples(self, first: int, last: int) -> list[HiddenSample]:
        content, found = self._content, []
        for i in range(first, last):
            length = int(content["seq_lens"][i])
            states = (content[name][i, :length] for name in ("egpt_hidden", "vl_hidden"))
            found.append(HiddenSample(*states, metadata=_in_our_words(content["metadata"][i])))
        return found


def _in_our_words(record: dict[str, Any]) -> dict[str, Any]:
    """Add `scene`, `question`, `drafter_text`, `target_text` to the earlier record; its own keys stay."""
    return {
        **record,
        "scene": str(record.get("sample_idx", "")),
        "question": record.get("question", ""),
        "drafter_text": record.get("egpt_text", ""),
        "target_text": record.get("vl_text", ""),
    }
