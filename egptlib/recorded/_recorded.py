"""What an opened result file of the earlier experiments is, its fields, and the traps that several formats share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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


Row = dict[str, Any]

FREE_PATH = "each model wrote its own answer: equal tokens at one position are no acceptance beyond the first mismatch"
TEXT_ONLY = "holds texts and no token ids: what was accepted is as recorded and cannot be recomputed"
COMPUTED_OVERLAP = "the two models ran one after the other: times with overlap were computed, not measured"
SHIFTED = "the adapter was trained on vl_tokens[1:]: compare with those (the recorded count is 0 by this shift)"
ASSUMED_TIMES = "speedup_* assume 130 and 310 ms prefill and 25 ms a token; 86, 326, 10.4 and 14.9 ms were measured"


@dataclass(frozen=True)
class Recorded:
    """One result file.

    Attributes:
        kind: which format it is; see `open_recorded`.
        path: the file.
        rows: one dict a sample (and method). Every time is in seconds, under a key that ends in `_seconds`, or in
            a dict `drafter_stages` / `target_stages` by stage; token ids are lists of int.
        traps: what one has to know before quoting a figure of this file.
        config: settings the file names.
        extra: other figures of the file (times in seconds where the key says so).
    """

    kind: str
    path: Path
    rows: list[Row]
    traps: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """Return one value of every row.

        Raises:
            ValueError: the rows of this file hold no such value.
        """
        if not self.rows or name not in self.rows[0]:
            raise ValueError(
                f"{self.path}: {self.kind} has no {name!r}, only {sorted(self.rows[0]) if self.rows else []}"
            )
        return [row[name] for row in self.rows]

    def method(self, name: str) -> list[Row]:
        """Return the rows of one method, of a file that holds several.

        Raises:
            ValueError: it has none (the methods it has are named).
        """
        rows = [row for row in self.rows if row.get("method") == name]
        if not rows:
            methods = dict.fromkeys(str(row["method"]) for row in self.rows if "method" in row)
            raise ValueError(f"{self.path}: no method {name!r}, only {', '.join(methods) or 'rows without one'}")
        return rows

    @property
    def why_not_replayed(self) -> str:
        """Why another gamma cannot be foretold from this file, and what would tell it; one line."""
        if self.rows and "target_ids" in self.rows[0]:
            lacks = "each model wrote its own answer; replay needs the drafter's next token along the target's"
        elif self.kind == "e2e_wallclock":
            lacks = "it holds how many draft tokens were accepted, not what the drafter would have said elsewhere"
        else:
            lacks = f"a {self.kind} file holds no answers that could be replayed"
        return f"{self.path}: {lacks}; `egptlib extract` on the pair records that, `egptlib benchmark costs` the times"
