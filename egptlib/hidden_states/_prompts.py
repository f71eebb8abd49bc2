"""What the target has in mind along its prompts: a file a scene, in which what its prompts have in common stands once.

Each file is a chunk: its first sample is the common beginning, the others what follows it in each question's prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from egptlib.hidden_states._chunk import SafetensorsChunk
from egptlib.hidden_states._format import write_chunk
from egptlib.hidden_states._sample import StoredPrompt, widened


class PromptRows(NamedTuple):
    """The target along a prompt of P positions.

    Attributes:
        token_ids: int32 [P], of pictures the placeholder's.
        target_hidden: [P, H], the last hidden states behind the final norm; row t stands behind token t, and the last
            one is the answer's first.
        target_layers: [P, layers, H], before the final norm.
    """

    token_ids: Tensor
    target_hidden: Tensor
    target_layers: Tensor


class _PromptFile(SafetensorsChunk):
    needed: ClassVar[frozenset[str]] = frozenset(PromptRows._fields)

    @classmethod
    def of(cls, path: Path) -> _PromptFile:
        found = cls(path, 0)
        found.num_samples = len(found._checksums)
        return found

    def questions(self) -> list[str]:
        return [str(record["question"]) for record in self.metadata()]

    def rows(self, number: int) -> PromptRows:
        """A question's prompt, from its beginning on."""
        parts = [self.split(0, 1), self.split(number, number + 1)]
        return PromptRows(*(widened(n, torch.cat([part[n][0] for part in parts])) for n in PromptRows._fields))


def write_prompts(folder: Path, scene: str, prompts: Mapping[str, PromptRows], config: Mapping[str, Any]) -> None:
    """Write a scene's prompts, by question, beside those of other questions that are there."""
    path = _path(folder, scene)
    if path.is_file():
        there = _PromptFile.of(path)
        prompts = {q: there.rows(number) for number, q in enumerate(there.questions()) if number} | dict(prompts)
    given = list(prompts.values())
    shortest = min(len(rows.token_ids) for rows in given)
    ids = torch.stack([rows.token_ids[:shortest] for rows in given])
    common = int((ids == ids[0]).all(dim=0).int().cumprod(dim=0).sum()) if len(given) > 1 else shortest
    columns = {
        name: [getattr(given[0], name)[:common], *(getattr(rows, name)[common:] for rows in given)]
        for name in PromptRows._fields
    }
    records = [{"scene": scene, "question": ""}, *({"scene": scene, "question": question} for question in prompts)]
    write_chunk(
        path, {name: [part.contiguous() for part in parts] for name, parts in columns.items()}, records, 0, config
    )


def read_prompt(stored: StoredPrompt) -> PromptRows:
    """Open a sample's prompt, checked.

    Raises:
        FileNotFoundError: its file is gone.
        ValueError: its file is damaged, or has no such question.
    """
    path = _path(stored.folder, stored.scene)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found: the prompts of scene {stored.scene!r}")
    file = _PromptFile.of(path)
    questions = file.questions()
    if stored.question not in questions[1:]:
        raise ValueError(f"{path}: scene {stored.scene!r}: no prompt of the question {stored.question!r}")
    return file.rows(questions.index(stored.question, 1))


def _path(folder: Path, scene: str) -> Path:
    """A name that every file system takes, whatever the scene is called."""
    return folder / f"{hashlib.sha256(scene.encode()).hexdigest()[:32]}.safetensors"
