"""Take fields out of the records of a JSON file; an error names file, record, field, and what was expected."""

import math
from pathlib import Path
from typing import Any


class Record:
    """An object of a JSON file.

    Attributes:
        path: the file.
        where: which of its objects, as `results[3].eventgpt`; "" for the file itself.
        fields: what it holds.
    """

    def __init__(self, path: Path, where: str, value: Any):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: {where or 'file'}: expected an object, found {_shown(value)}")
        self.path, self.where, self.fields = path, where, value

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def error(self, name: str, expected: str) -> ValueError:
        """The error for a field that is not what it should be."""
        found = _shown(self.fields[name]) if name in self.fields else "nothing"
        return ValueError(f"{self.path}: {self.where or 'file'}: {name}: expected {expected}, found {found}")

    def number(self, name: str) -> float:
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(name, "a number")
        return float(value)

    def maybe(self, name: str) -> float | None:
        """A number; None where the field is missing or null."""
        return None if self.fields.get(name) is None else self.number(name)

    def numbers(self, name: str) -> list[float]:
        values = self.fields.get(name)
        if not isinstance(values, list):
            raise self.error(name, "a list of numbers")
        places = Record(self.path, self._place(name), {f"[{i}]": value for i, value in enumerate(values)})
        return [places.number(place) for place in places.fields]

    def seconds(self, name: str) -> float:
        """A time that the file gives in seconds."""
        value = self.number(name)
        if value < 0:
            raise self.error(name, "a time of 0 or more")
        return value

    def ms(self, name: str) -> float:
        """A time that the file gives in milliseconds, as seconds."""
        return self.seconds(name) / 1e3

    def count(self, name: str) -> int:
        value = self.number(name)
        if value < 0 or value != int(value):
            raise self.error(name, "a whole number of 0 or more")
        return int(value)

    def ids(self, name: str) -> list[int]:
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(type(token) is int and token >= 0 for token in value):
            raise self.error(name, "a list of token ids")
        return value

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise self.error(name, "a text")
        return value

    def flag(self, name: str) -> bool:
        value = self.fields.get(name)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def part(self, name: str) -> "Record":
        """An object in this one."""
        return Record(self.path, self._place(name), self.fields.get(name))

    def optional(self, name: str) -> "Record":
        """An object in this one; an empty one where the file has none."""
        return self.part(name) if name in self.fields else Record(self.path, self._place(name), {})

    def records(self, name: str) -> "list[Record]":
        """A list of objects in this one, at least one."""
        rows = self.fields.get(name)
        if not isinstance(rows, list) or not rows:
            raise self.error(name, "a list of records")
        return [Record(self.path, f"{self._place(name)}[{i}]", row) for i, row in enumerate(rows)]

    def parts(self, name: str) -> "dict[str, Record]":
        """An object in this one whose every value is an object."""
        return {key: self.part(name).part(key) for key in self.part(name).fields}

    def _place(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{type(value).__name__} {text[:40]}..."
