"""Bars of long work: in a terminal, as a widget in JupyterLab, and under `egptlib run` in a file that it shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class _Newest:
    """A stream of which a file holds the newest line."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def write(self, text: str) -> None:
        if text := text.strip():
            self._path.write_text(text, encoding="utf-8")

    def flush(self) -> None:
        """Every line is written at once."""


def progress(*arguments: Any, **options: Any) -> Any:
    """Return a tqdm bar (an iterator and a context), which goes to the file EGPT_PROGRESS where that is set."""
    from tqdm.auto import tqdm

    if path := os.environ.get("EGPT_PROGRESS"):
        from tqdm import tqdm

        options = {"disable": False} | options | {"file": _Newest(path), "ncols": 70}
    return tqdm(*arguments, leave=False, **options)
