"""One writer per folder, also across processes; a writer that dies leaves nothing to clear away."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

LOCK = "writer.lock"


class FolderLock:
    """An exclusive lock on `folder/writer.lock`, held until `release` or the end of the process.

    The kernel holds it (`flock`), so it goes with its process however that ends. The file itself stays.
    Another writer is waited for as many seconds as EGPTLIB_LOCK_SECONDS says, by default none: notebooks that run side
    by side want the same samples, and whoever comes second finds them done.

    Raises:
        ValueError: another writer holds it; its process is named.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # A file object: where an interrupt falls before this lock is anybody's, it goes with it.
        self._file = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        deadline = time.monotonic() + float(os.environ.get("EGPTLIB_LOCK_SECONDS", "0"))
        while not (held := self._try()) and time.monotonic() < deadline:
            time.sleep(0.2)
        if not held:
            holder = self._file.read(100).decode(errors="replace").strip()
            self._file.close()
            raise ValueError(f"{folder}: another writer is at work here ({holder}); wait for it, or stop it")
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {os.uname().nodename}\n".encode())

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let the next writer in. May be called twice."""
        self._file.close()
