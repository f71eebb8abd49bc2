"""One writer per folder, also across processes; a writer that dies leaves nothing to clear away."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

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
        file, seconds = folder / LOCK, float(os.environ.get("EGPTLIB_LOCK_SECONDS", "0"))
        # Whichever thread releases it; and no file that stands for a lock where the file system knows none.
        self._lock = FileLock(file, timeout=seconds, poll_interval=0.2, thread_local=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except Timeout:
            holder = file.read_text(encoding="utf-8", errors="replace")[:100].strip()
            raise ValueError(f"{folder}: another writer is at work here ({holder}); wait for it, or stop it") from None
        file.write_text(f"process {os.getpid()} on {os.uname().nodename}\n", encoding="utf-8")

    def release(self) -> None:
        """Let the next writer in. May be called twice."""
        self._lock.release()
