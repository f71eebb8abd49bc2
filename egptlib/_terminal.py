"""What the terminal and notebooks show: aligned tables, bars of long work, and the logger `egptlib` as plain lines.

Under `egptlib run` bars go to a file, which it shows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class _Lines(logging.Handler):
    def __init__(self, inside: tuple[Path, ...]) -> None:
        super().__init__()
        self.inside = inside

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        for folder in self.inside:
            line = line.replace(f"{folder}/", "")
        print(line, flush=True)  # to the sys.stdout of the moment: notebooks and tests exchange it


def show_log(*inside: Path) -> Callable[[], None]:
    """Show on standard output, from now on, what the library logs at INFO and above.

    Args:
        inside: folders that every reader of the lines knows; paths in them are shown relative to them. Those of the
            last call count.

    Returns:
        What ends it.
    """
    logger = logging.getLogger("egptlib")
    logger.setLevel(logging.INFO)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Lines)]:
        logger.removeHandler(handler)
    lines = _Lines(inside)
    logger.addHandler(lines)
    return lambda: logger.removeHandler(lines)


def columns(rows: Sequence[Sequence[str]], left: int = 1, rule: bool = False) -> list[str]:
    """Aligned lines: the first `left` columns to the left, figures to the right; `rule` underlines the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = [rows[0], ["-" * width for width in widths], *rows[1:]] if rule else rows
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]


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
