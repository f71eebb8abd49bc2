"""What a person does with many runs: find one, star it, list them, set some side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egptlib._sealed import write_sealed
from egptlib.reporting._runs import list_runs, read_settings, read_stars, readable_runs, run_table
from egptlib.reporting._sweep import differing

if TYPE_CHECKING:
    from pandas import DataFrame


def find_run(root: Path, name: str) -> Path:
    """Return the run of `root` with this name, or the only one whose name begins so.

    Raises:
        ValueError: none does, or several do.
    """
    there = {folder.name: folder for folder in list_runs(root)}
    if name in there:
        return there[name]
    found = [run for run in there if run.startswith(name)]
    if len(found) != 1:
        few = ", ".join(found[:5]) + ", ..." * (len(found) > 5)
        raise ValueError(f"run {name!r} in {root}: " + (f"{len(found)} begin so: {few}" if found else "none begins so"))
    return there[found[0]]


def set_star(folder: Path, note: str | None) -> None:
    """Star a run with a note, or take the star away with None. Stars outlive a run that is made again."""
    path = folder.parent / "stars.json"
    stars = read_stars(folder.parent)
    stars.pop(folder.name, None)
    write_sealed(path, stars if note is None else stars | {folder.name: note})


def overview(root: Path, *, notebook: str | None = None, starred: bool = False) -> str:
    """Return one line per run: star, state, seconds, the parameters that differ within its notebook, name, note.

    A run with a damaged file has a line that says so.
    """
    runs, damaged = readable_runs(root)
    stars = read_stars(root)
    frame = run_table(runs, stars)
    if len(frame) and notebook is not None:
        frame = frame[frame["notebook"].str.startswith(notebook)]
    if len(frame) and starred:
        frame = frame[frame["starred"]]
    lines = []
    parameters = {run: read_settings(root / run / "params.json") for run in frame.get("run", ())}
    for _, of_notebook in frame.groupby("notebook", sort=True) if len(frame) else ():
        varying = differing([parameters[run] for run in of_notebook["run"]])
        for run, state, seconds in zip(of_notebook["run"], of_notebook["state"], of_notebook["seconds"]):
            values = " ".join(f"{k}={_value(parameters[run][k])}" for k in varying if k in parameters[run])
            note = f"  # {stars[run]}" if stars.get(run) else ""
            lines.append(f"{'*' if run in stars else ' '} {state:<6} {seconds:>6.0f} s  {run}  {values}{note}".rstrip())
    lines += [f"  damaged         {name}: {why}" for name, why in damaged.items()]
    return "\n".join([*lines, f"{len(lines)} run{'s'[: len(lines) != 1]} in {root}"])


def compare_runs(folders: Sequence[Path]) -> "DataFrame":
    """Return one row per headline, parameter or figure in which the runs differ, and one column per run.

    Lists and dicts among the figures are left out. With two runs of numbers a column `difference` says by how much.
    """
    import pandas as pd

    sources = ("headline.json", "params.json", "metrics.json")
    rows: list[dict[str, Any]] = []
    for source in sources:
        contents = [read_settings(folder / source) for folder in folders]
        for name in differing(contents):
            values: list[Any] = [content.get(name) for content in contents]
            if any(isinstance(value, list | dict) for value in values):
                continue
            row = {"what": source.removesuffix(".json"), "name": name} | {f.name: v for f, v in zip(folders, values)}
            if len(values) == 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
                row["difference"] = values[1] - values[0]
            rows.append(row)
    columns = ["what", "name", *(folder.name for folder in folders)]
    frame = pd.DataFrame(rows, columns=columns + ["difference"] * any("difference" in row for row in rows))
    return frame.set_index(["what", "name"])


def _value(value: Any) -> str:
    return Path(value).name if isinstance(value, str) and "/" in value else json.dumps(value, ensure_ascii=False)
