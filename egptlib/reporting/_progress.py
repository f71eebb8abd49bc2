"""What a notebook that runs is at: its cell, and the bar of what that cell does, in one line of the terminal."""

import contextlib
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

CELL, BAR = ".cell", ".bar"  # in a run's folder while it runs: "5 of 23", and the newest line of a bar


def running_notebooks(root: Path) -> list[str]:
    """Return a line for each notebook that runs below `root`: its name, its cell, and that one's bar."""
    lines = []
    for cell in sorted(root.glob(f".*.partial/{CELL}")):
        with contextlib.suppress(OSError, ValueError):  # it has just ended
            bar = cell.with_name(BAR)
            at = bar.read_text(encoding="utf-8") if bar.is_file() else ""
            name = cell.parent.name[1:].split("-")[0]
            lines.append(f"{name}, cell {cell.read_text(encoding='utf-8')}{': ' * bool(at)}{at}")
    return lines


class ProgressLine:
    """One line at the end of a terminal, drawn twice a second; nothing where stderr is none."""

    def __init__(self, root: Path) -> None:
        self._root, self._lock, self._width = root, threading.Lock(), 0

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Draw it while the block runs."""
        if not sys.stderr.isatty():
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._draw, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.clear()

    def clear(self) -> None:
        """Take it away, for what is printed next."""
        with self._lock:
            self._write("")

    def _draw(self, ended: threading.Event) -> None:
        while not ended.wait(0.5):
            with self._lock:
                self._write(" | ".join(running_notebooks(self._root)))

    def _write(self, line: str) -> None:
        line = line[: shutil.get_terminal_size().columns - 1]
        if line or self._width:
            sys.stderr.write(f"\r{line:<{self._width}}" + ("" if line else "\r"))
            sys.stderr.flush()
        self._width = len(line)
