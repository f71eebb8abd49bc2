"""What stands on the report's index page across runs: one table and one figure for each notebook."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egptlib.reporting._export import file_name
from egptlib.reporting._runs import read_settings, read_status
from egptlib.reporting._sweep import differing
from egptlib.reporting._tables import in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = 4  # figures of a summary; the first ones of the headline
_ROWS = 40  # runs in a figure of dots
_NUMBER = re.compile(r"([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)\s*(%|x|[A-Za-zµ]{1,5})?")


@dataclass(frozen=True)
class Summary:
    """The runs of one notebook beside each other.

    Attributes:
        notebook: its name.
        columns: of the table: varying parameters, headline figures, seconds.
        rows: page of the run, the name under which a run by hand was kept, and one text per column.
        figure: the headline figures across runs; None where there is one run, or nothing to draw.
    """

    notebook: str
    columns: list[str]
    rows: list[tuple[str, str, list[str]]]
    figure: "Figure | None"


def summarize(folders: Sequence[Path]) -> list[Summary]:
    """Set the finished runs of each notebook side by side, in the order of the notebooks' names."""
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        status = read_status(folder) or {}
        if status.get("state") == "done":
            groups.setdefault(str(status.get("notebook")), []).append(folder)
    return [_summary(notebook, runs) for notebook, runs in sorted(groups.items())]


def in_order(folders: Sequence[Path]) -> list[Path]:
    """Return runs by notebook and dataset, and within these by the values of what varies.

    What varies first is what a grid's file names first (see `plan_sweep`). Numbers go by their size, other values in
    the order in which the runs began.
    """
    statuses = {folder: read_status(folder) or {} for folder in folders}
    groups: dict[tuple[str, str], list[tuple[Path, Mapping[str, Any]]]] = {}
    for folder in sorted(folders, key=lambda folder: str(statuses[folder].get("started"))):
        given, notebook = read_settings(folder / "params.json"), statuses[folder].get("notebook")
        groups.setdefault((str(notebook), shown(given.get("dataset"))), []).append((folder, given))
    ordered = []
    for _, runs in sorted(groups.items()):
        names = differing([given for _, given in runs])
        values = {name: [given.get(name) for _, given in runs] for name in names}
        key = {folder: [_place(given.get(name), values[name]) for name in names] for folder, given in runs}
        ordered += sorted(key, key=lambda folder: (key[folder], folder.name))
    return ordered


def _place(value: Any, values: Sequence[Any]) -> tuple[bool, float]:
    return (False, float(value)) if _is_number(value) else (True, values.index(value))


def page_name(folder: Path) -> str:
    """Return the file name of a run's page."""
    return f"{file_name(folder.name)}.html"


def kept_as(folder: Path) -> str:
    """Return the name that somebody gave a run by hand; empty for others."""
    return folder.name if "by hand" in (read_status(folder) or {}) else ""


def quantity(value: Any) -> tuple[float, str] | None:
    """Read a headline figure, a number or a text such as ``91.1%`` or ``12.3 ms``, as number and unit."""
    if _is_number(value):
        return float(value), ""
    if value is None or isinstance(value, int | float):
        return None
    match = _NUMBER.fullmatch(str(value).strip())
    return (float(match[1].replace(",", "")), match[2] or "") if match else None


def shown(value: Any) -> str:
    """Return a parameter or a figure as it stands in a table: paths by their last part, numbers with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and "/" in value:
        return Path(value).name
    return "–" if value is None or value == "" else str(value)


def _summary(notebook: str, folders: Sequence[Path]) -> Summary:
    parameters = [read_settings(folder / "params.json") for folder in folders]
    headlines = [read_settings(folder / "headline.json") for folder in folders]
    varying = differing(parameters)
    names = list(dict.fromkeys(name for headline in headlines for name in headline))
    rows = []
    for folder, given, headline in zip(folders, parameters, headlines):
        seconds = float((read_status(folder) or {}).get("seconds", 0.0))
        cells = [shown(given.get(name)) for name in varying] + [shown(headline.get(name)) for name in names]
        rows.append((page_name(folder), kept_as(folder), [*cells, f"{seconds:.0f} s"]))
    columns = [in_words(name) for name in [*varying, *names]] + ["took"]
    return Summary(notebook, columns, rows, _figure(parameters, varying, names, headlines))


def _figure(
    parameters: Sequence[Mapping[str, Any]],
    varying: Sequence[str],
    names: Sequence[str],
    headlines: Sequence[Mapping[str, Any]],
) -> "Figure | None":
    from egptlib.figures import runs_figure, sweep_figure

    figures: dict[str, list[float | None]] = {}
    for name in names:
        read = [quantity(headline.get(name)) for headline in headlines]
        units = {one[1] for one in read if one}
        values = [one[0] if one else None for one in read]
        if len(units) == 1 and len({value for value in values if value is not None}) > 1 and len(figures) < _PANELS:
            (unit,) = units
            figures[f"{name} ({unit})" if unit else name] = values
    if len(parameters) < 2 or not figures:
        return None
    values_of = {name: [given.get(name) for given in parameters] for name in varying}
    # Three or more different numbers make an axis.
    if swept := [name for name, values in values_of.items() if all(map(_is_number, values)) and len({*values}) >= 3]:
        axis = max(swept, key=lambda name: len({given.get(name) for given in parameters}))
        others = [name for name in varying if name != axis]
        series = [", ".join(f"{in_words(name)} {shown(given.get(name))}" for name in others) for given in parameters]
        return sweep_figure(in_words(axis), [float(given[axis]) for given in parameters], series, figures)
    labels = [", ".join(_said(name, given.get(name)) for name in varying) for given in parameters]
    return runs_figure(labels[:_ROWS], {name: values[:_ROWS] for name, values in figures.items()})


def _said(name: str, value: Any) -> str:
    """A value in a list of values: a switch by its name."""
    return name if value is True else f"no {name}" if value is False else shown(value)


def _is_number(value: Any) -> bool:
    """A number that can be drawn: JSON may hold 1e999."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
