"""Run folders of trainings, named by level and time."""

from __future__ import annotations

import os
import time
from pathlib import Path


def new_run_folder(root: str | os.PathLike[str], level: str) -> Path:
    """Make `root`/LEVEL_YYYYMMDD_HHMMSS, with a number behind it where that second has one already."""
    name = f"{level}_{time.strftime('%Y%m%d_%H%M%S')}"
    for number in range(1000):
        folder = Path(root) / (name if number == 0 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ValueError(f"{root}: 1,000 runs of {level} in one second")
