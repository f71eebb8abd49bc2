"""A grid of runs from a YAML file::

    notebooks: [04]            # numbers, names or paths; all when left out
    parameters:                # the same in every run
      num_scenes: 10
    grid:                      # one run per combination of these
      dataset: [streets, clips, my_data/500ms]
      threshold: [0.80, 0.85, 0.90]

Paths are those of the folder the command is given in, as on the command line.
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr  # short, whatever a file holds
from typing import Any

from egptlib.reporting._notebooks import Job, find_notebooks, plan, require_json

MAX_POINTS = 10_000
_FIELDS = ("notebooks", "parameters", "grid")


@dataclass(frozen=True)
class Grid:
    """What a grid file says.

    Attributes:
        notebooks: numbers, names or paths; empty for all.
        parameters: name -> value of every run.
        axes: name -> the values it takes, in the order of the file.
    """

    notebooks: tuple[str, ...]
    parameters: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the axes, the last one varying fastest."""
        return [dict(zip(self.axes, values)) for values in itertools.product(*self.axes.values())]


def read_grid(path: str | os.PathLike[str]) -> Grid:
    """Read a grid file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML mapping, has an unknown field, or a field of the wrong kind (the message names it); or
            the grid has too many points.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such grid file") from error
    except RecursionError:
        raise ValueError(f"{path}: not readable as YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are no UTF-8, a date that is none
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not readable as YAML: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping with {', '.join(_FIELDS)}, found {type(content).__name__}")
    if unknown := [str(name) for name in content if name not in _FIELDS]:
        raise ValueError(f"{path}: unknown field {repr(unknown[0])}; expected {', '.join(_FIELDS)}")
    notebooks = content.get("notebooks") or []
    if not isinstance(notebooks, list) or not all(isinstance(name, str | int) for name in notebooks):
        raise ValueError(f"{path}: notebooks: expected a list of numbers or names, found {repr(notebooks)}")
    parameters = _mapping(content, "parameters", path)
    axes = _mapping(content, "grid", path)
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{path}: grid.{name}: expected a list of values, found {repr(values)}")
        for value in values:
            require_json(f"{path}: grid.{name}", value)
        if name in parameters:
            raise ValueError(f"{path}: {name!r} stands under parameters and under grid; expected one of them")
    count = math.prod(len(values) for values in axes.values())
    if count > MAX_POINTS:
        raise ValueError(f"{path}: grid: {count:,} points; expected at most {MAX_POINTS:,}")
    # YAML reads 04 as the number 4.
    names = tuple(f"{name:02d}" if isinstance(name, int) else name for name in notebooks)
    return Grid(names, parameters, axes)


def plan_sweep(grid: Grid, optional: Mapping[str, Any] | None = None, folder: Path | None = None) -> list[Job]:
    """Return the runs of a grid, each once: a notebook that does not know a parameter has one run for all its values.

    The grid's axes stand first among a run's parameters, in the order of the file: so do they in tables and on cards.

    Args:
        grid: what `read_grid` returned.
        optional: parameters for the notebooks that know them, such as ``smoke``.
        folder: where numbered notebooks are looked for; default: those of the checkout.

    Raises:
        ValueError, FileNotFoundError: as `plan` and `find_notebooks`.
    """
    notebooks = find_notebooks(grid.notebooks, folder)
    jobs = [job for point in grid.points() for job in plan(notebooks, {**grid.parameters, **point}, optional)]
    axes = [{name: job.parameters[name] for name in grid.axes if name in job.parameters} for job in jobs]
    ordered = [Job(job.notebook, {**first, **job.parameters}) for job, first in zip(jobs, axes)]
    return list({job.name: job for job in ordered}.values())


def differing(parameters: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names whose values are not the same in all of `parameters`, in order of appearance."""
    names = dict.fromkeys(name for one in parameters for name in one)
    missing = object()
    return [
        name for name in names if any(one.get(name, missing) != parameters[0].get(name, missing) for one in parameters)
    ]


def _mapping(content: Mapping[str, Any], field: str, path: Path) -> dict[str, Any]:
    value = content.get(field) or {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{path}: {field}: expected names and values, found {repr(value)}")
    return value
