"""`failures.jsonl`: which samples are missing from a folder, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from egptlib._paths import atomic_write, json_bytes

FAILURES = "failures.jsonl"


class Failures:
    """One line per sample that is missing, whole at any time. An empty question stands for the whole scene.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FAILURES
        self._records: dict[tuple[str, str], dict[str, str]] = {}
        if self._path.is_file():
            for number, line in enumerate(self._path.read_bytes().splitlines(), 1):
                try:
                    record = json.loads(line)
                    self._records[record["scene"], record["question"]] = record
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise ValueError(
                        f"{self._path}: line {number} is damaged; remove the file, and what failed is tried again"
                    ) from None

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._records or (key[0], "") in self._records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[str]:
        """A line for each, as for a person."""
        for (scene, question), record in self._records.items():
            yield f"scene {scene}: " + (f"{question!r}: " if question else "") + record["reason"]

    def add(self, scene: str, question: str, error: Exception) -> None:
        """Note a failure and its reason."""
        reason = f"{type(error).__name__}: {error}"
        record = {"scene": scene, "question": question, "reason": reason}
        if self._records.get((scene, question)) != record:
            self._records[scene, question] = record
            self._write()

    def remove(self, scene: str, question: str) -> None:
        """Forget the failures that a sample's success makes void."""
        void = [key for key in ((scene, question), (scene, "")) if key in self._records]
        for key in void:
            del self._records[key]
        if void:
            self._write()

    def _write(self) -> None:
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in self._records.values()]
        with atomic_write(self._path) as temporary:
            temporary.write_bytes(json_bytes("".join(lines)))


def first_failure(folder: Path) -> str:
    """The first line of what an extraction, or the first of its shards, has set aside; empty where nothing was."""
    return next((line for path in sorted(folder.rglob(FAILURES)) for line in Failures(path.parent)), "")
