"""Run folders of trainings: named, starred, and gathered in one table."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

_STAR = "starred"


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


def star(folder: str | os.PathLike[str], starred: bool = True) -> None:
    """Mark a run, so that `collect_training` lists it first, or take the mark away."""
    folder = Path(folder)
    if not (folder / "settings.json").is_file():
        raise FileNotFoundError(f"{folder / 'settings.json'}: not found; expected a training's run folder")
    if starred:
        (folder / _STAR).touch()
    else:
        (folder / _STAR).unlink(missing_ok=True)


def collect_training(root: str | os.PathLike[str]) -> DataFrame:
    """One row per training below `root`: run, starred, level, epochs, and the figures of its best epoch.

    Starred runs come first, then by name. A run without a finished epoch has no figures.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for path in sorted(Path(root).glob("*/settings.json")):
        folder = path.parent
        settings = json.loads(path.read_text(encoding="utf-8"))
        row: dict[str, Any] = {"run": folder.name, "starred": (folder / _STAR).is_file()}
        row["level"] = settings.get("adapter", {}).get("level", "tokens")
        if (folder / "history.json").is_file():
            history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
            training = settings["training"]
            sign = -1 if training["lower_is_better"] else 1
            best = max(history, key=lambda h: sign * h[training["monitor"]])
            row |= {"epochs": len(history), "total_seconds": sum(h["seconds"] for h in history), **best}
        rows.append(row)
    return pd.DataFrame(sorted(rows, key=lambda row: not row["starred"]))
