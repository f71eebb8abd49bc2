"""What a stored sample is, alone and in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IDS = ("token_ids", "drafter_top1")
PROMPTS = "prompts"
"""Folder, beside the chunks, of what the target has in mind along the prompts."""
FIGURES = ("overlap", "drafter_confidence", "target_entropy")
_WIDENED = dict.fromkeys(IDS, torch.int32) | dict.fromkeys(FIGURES, torch.float32)


def widened(field: str, rows: Tensor) -> Tensor:
    """Stored rows as a reader gets them: ids and figures may be stored narrower."""
    return rows.to(_WIDENED.get(field, rows.dtype))


class StoredPrompt(NamedTuple):
    """Where a sample's prompt is kept; `read_prompt` opens it."""

    folder: Path
    scene: str
    question: str


@dataclass(frozen=True)
class _Fields:
    """The rows of a sample, or of several: row t stands before token t and predicts it.

    Attributes:
        drafter_hidden: [length, drafter width] last hidden state after the final norm, in the stored dtype.
        target_hidden: [length, target width].
        token_ids: int32 [length] the target's tokens. None, like the next four, in folders of the earlier writer.
        drafter_top1: int32 [length] the drafter's most likely token at the position.
        overlap: float32 [length] sum(min(p, q)) of the two next-token distributions.
        drafter_confidence: float32 [length] max(q), the drafter's probability of its top-1.
        target_entropy: float32 [length] entropy of p in nats.
        drafter_layers: [length, layers, drafter width], only where layers were asked for; before the final norm.
        target_layers: [length, layers, target width].
    """

    drafter_hidden: Tensor
    target_hidden: Tensor
    token_ids: Tensor | None = None
    drafter_top1: Tensor | None = None
    overlap: Tensor | None = None
    drafter_confidence: Tensor | None = None
    target_entropy: Tensor | None = None
    drafter_layers: Tensor | None = None
    target_layers: Tensor | None = None

    @property
    def match(self) -> Tensor:
        """Bool, by position: the drafter's top-1 is the target's token. Exact where the path is "target".

        Raises:
            ValueError: the folder holds no token ids.
        """
        if self.token_ids is None or self.drafter_top1 is None:
            raise ValueError("this folder was left by the earlier writer and holds no token ids")
        return (self.token_ids == self.drafter_top1) & (self.token_ids >= 0)


@dataclass(frozen=True, kw_only=True)
class HiddenSample(_Fields):
    """One question about one scene.

    Attributes:
        metadata: `scene`, `sequence`, `question`, `drafter_text`, `target_text` and what else the writer noted.
        prompt: where the target's states along the prompt are, only where they were asked for.
    """

    metadata: dict[str, Any]
    prompt: StoredPrompt | None = None

    def __len__(self) -> int:
        """Number of positions."""
        return self.drafter_hidden.shape[0]

    def clone(self) -> HiddenSample:
        """A copy in memory of its own."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        copies: dict[str, Any] = {name: value.clone() for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **copies)


@dataclass(frozen=True, kw_only=True)
class HiddenBatch(_Fields):
    """Samples padded to the longest: [sample, position, ...], zeros (ids: -1) where `mask` is false."""

    mask: Tensor
    metadata: list[dict[str, Any]]
    prompts: Sequence[StoredPrompt | None] = ()


@dataclass(frozen=True)
class RaggedBatch(Sequence[HiddenSample]):
    """Samples as they are in the file, without padding and, where the file allows, without a copy.

    The tensors are views of memory-mapped files: clone what is to be changed.
    """

    samples: list[HiddenSample]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: Any) -> Any:
        return self.samples[i]

    def __iter__(self) -> Iterator[HiddenSample]:
        return iter(self.samples)

    @property
    def lengths(self) -> Tensor:
        """int64 [sample]: the number of positions of each."""
        return torch.tensor([len(sample) for sample in self.samples])

    def padded(self) -> HiddenBatch:
        """The same as padded tensors with a mask: a copy."""
        lengths = self.lengths
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        tensors = {}
        for name in (f.name for f in fields(HiddenSample) if f.name not in ("metadata", "prompt")):
            rows = [row for sample in self.samples if (row := getattr(sample, name)) is not None]
            if rows:
                tensors[name] = pad_sequence(rows, batch_first=True, padding_value=-1 if name in IDS else 0)
        metadata, prompts = ([getattr(s, name) for s in self.samples] for name in ("metadata", "prompt"))
        return HiddenBatch(mask=mask, metadata=metadata, prompts=prompts, **tensors)
