"""Event streams as text: one event a line, with column names or in one of the usual orders.

    t x y p      the Event Camera Dataset (seconds; Mueggler et al. 2017), evlib, EventNeRF's users
    x,y,p,t      Metavision's metavision_file_to_csv (microseconds)
    a first line with names (t, x, y, p or their aliases), in any order

Lines that begin with # or % are comments. "geometry 640x480" in one of them, or a first line of two numbers as E2VID's,
tells the size.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from egptlib.scenes.events._fields import ALIASES, FIELDS, find_order
from egptlib.scenes.events._source import Block, OpenFile, Source

BYTES_PER_BLOCK = 1 << 22
_LONGEST_LINE = 4096


def open_text(path: Path) -> Source:
    """Open a text of four columns, parted by spaces, tabs, commas or semicolons; ValueError for any other text."""
    return _Text(path)


class _Text(OpenFile):
    is_coded, format = False, "text"

    def __init__(self, path: Path) -> None:
        self._path = path
        names, self.size = None, None
        self.first, self._separator = 0, " "
        for line in self._lines():
            words = re.split(r"[,;\s]+", line.lstrip("#% ").removeprefix("\ufeff"))
            if match := re.search(r"geometry[ :=]*(\d+)[x,](\d+)$|^(\d+)[ ,](\d+)$", line):
                width, height = (int(number) for number in match.groups() if number)
                self.size = height, width
            elif len(words) == 4 and not any(map(_is_number, words)):
                names = [word.strip("\"'").lower() for word in words]
            elif line and line[0] not in "#%":
                if len(words) != 4:
                    raise ValueError(f"{path}: {line[:60]!r} is no event; expected four columns: t x y p or x,y,p,t")
                self._separator = next((mark for mark in ",;" if mark in line), " ")
                break
        self._file = path.open("rb")
        self._order = self._named(names) if names else self._found()

    def _lines(self) -> Iterator[str]:
        """The first lines, one by one; `first` is where the one that was yielded begins."""
        with self._path.open("rb") as file:
            while line := file.readline(_LONGEST_LINE):
                yield line.decode("utf-8", "replace").strip()
                self.first = file.tell()

    def _named(self, names: list[str]) -> dict[str, int]:
        order = {}
        for key, aliases in ALIASES.items():
            known = [alias for alias in aliases if alias in names]
            if len(known) != 1:
                raise ValueError(f"{self._path}: the columns are {', '.join(names)}; expected t, x, y, p")
            order[key] = names.index(known[0])
        return order

    def _found(self) -> dict[str, int]:
        columns, _ = self._columns(self.first)
        return find_order(np.stack([column.astype(np.float64) for column in columns], axis=1), str(self._path))

    def read(self, place: int, names: tuple[str, ...] = FIELDS) -> Block:
        columns, following = self._columns(place)
        return Block({name: columns[self._order[name]] for name in names}, following)

    def _columns(self, place: int) -> tuple[list[np.ndarray], int | None]:
        """The four columns of the whole lines in the block at `place`, and where the next block begins."""
        from pyarrow import ArrowInvalid, csv, types

        self._file.seek(place)
        data = self._file.read(BYTES_PER_BLOCK)
        if len(data) == BYTES_PER_BLOCK:
            end = data.rfind(b"\n") + 1
            if not end:
                raise ValueError(f"{self._path}: no end of line in {len(data)} bytes after byte {place}")
            following, data = place + end, data[:end]
        else:
            following = None
        if not data.strip():
            return [np.empty(0, np.int64)] * 4, None
        if self._separator == " ":
            data = re.sub(rb"(?m)^ | $", b"", re.sub(rb"[ \t\r]+", b" ", data))
        try:
            table = csv.read_csv(
                io.BytesIO(data),
                read_options=csv.ReadOptions(
                    autogenerate_column_names=True, use_threads=False, block_size=len(data) + 1
                ),
                parse_options=csv.ParseOptions(delimiter=self._separator),
            )
        except ArrowInvalid as error:
            raise ValueError(f"{self._path}: after byte {place}: {error}") from error
        if table.num_columns != 4:
            raise ValueError(f"{self._path}: {table.num_columns} columns after byte {place}; expected t, x, y, p")
        numbers = (types.is_integer, types.is_floating, types.is_boolean)
        for column in table.columns:
            if column.null_count or not any(is_one(column.type) for is_one in numbers):
                wrong = next((value for value in column.to_pylist() if not _is_number(value)), "a word")
                raise ValueError(f"{self._path}: after byte {place}: {wrong!r} is no number; expected four a line")
        return [column.to_numpy() for column in table.columns], following


def _is_number(word: object) -> bool:
    try:
        float(word)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
