"""Reading numbers out of records that others wrote; what is missing or no number is named with file and record."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def number(path: Path, where: str, record: Mapping[str, Any], name: str) -> float:
    """Return a field as a finite number.

    Raises:
        ValueError: it is missing or none.
    """
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{path}: {where}: {name!r} is {value!r}; expected a number")
    return float(value)


def maybe(path: Path, where: str, record: Mapping[str, Any], name: str) -> float | None:
    """As `number`; None where the field is missing or null."""
    return None if record.get(name) is None else number(path, where, record, name)


def numbers(path: Path, where: str, record: Mapping[str, Any], name: str) -> list[float]:
    """Return a field that lists numbers; errors as `number`."""
    values = record.get(name)
    if not isinstance(values, list):
        raise ValueError(f"{path}: {where}: {name!r} is {values!r}; expected a list of numbers")
    return [number(path, f"{where}: {name}", {"": value}, "") for value in values]
