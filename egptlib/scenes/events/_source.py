"""What a reader of one format gives to `EventFile`: a chain of blocks, each of bounded size."""

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from egptlib.scenes.events._fields import FIELDS

ROWS_PER_BLOCK = 1 << 18


class Block(NamedTuple):
    """Columns x, y, t, p (or those asked for) of some events, where the next block is, and the least t it can have."""

    columns: Mapping[str, np.ndarray]
    next: Any  # None behind the last one
    floor_us: int | None = None


class Source(Protocol):
    """An open recording.

    Attributes:
        format: its name, for people.
        size: (height, width) of the sensor, or None.
        first: where the first block is.
        is_coded: t and p stand there in the format's own code and come out as microseconds and 0/1. Else they are
            whatever the writer meant, and only all of them together tell (see `Survey`).
        t_offset: what is to be added to every t, or None.
    """

    format: str
    size: tuple[int, int] | None
    first: Any
    is_coded: bool
    t_offset: np.ndarray | None

    def read(self, place: Any, names: tuple[str, ...] = FIELDS) -> Block:
        """Read the block at `place`; ValueError (naming file and place) when it is damaged."""

    def close(self) -> None:
        """Let go of the file."""


class OpenFile:
    """What sources that keep a file open and read it themselves have in common."""

    t_offset: np.ndarray | None = None
    _file: BinaryIO

    def close(self) -> None:
        self._file.close()


class Rows:
    """A table whose rows can be read from anywhere: datasets of HDF5, arrays on disk or in memory.

    Args:
        count: number of rows.
        take: (rows, names) -> those columns of those rows.
    """

    is_coded = False

    def __init__(
        self,
        format: str,
        count: int,
        take: Callable[[slice, tuple[str, ...]], Mapping[str, np.ndarray]],
        *,
        size: tuple[int, int] | None = None,
        t_offset: np.ndarray | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.format, self.size, self.t_offset = format, size, t_offset
        self.first = 0
        self._count, self._take, self._close = count, take, close

    def read(self, place: int, names: tuple[str, ...] = FIELDS) -> Block:
        stop = min(place + ROWS_PER_BLOCK, self._count)
        return Block(self._take(slice(place, stop), names), stop if stop < self._count else None)

    def close(self) -> None:
        if self._close:
            self._close()
