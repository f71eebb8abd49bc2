"""`EventFile`: a recording of any format, kept open, read in windows of time and in bounded memory.

`open_source` tells the format by content: a new one is a branch there, and a module that gives its `Source`.
"""

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from egptlib.scenes.events._fields import Events, Meaning, Survey, TimeUnit
from egptlib.scenes.events._source import Source


def load_events(
    path: str | PathLike[str],
    start_us: int | None = None,
    stop_us: int | None = None,
    *,
    time_unit: TimeUnit | None = None,
) -> Events:
    """Read one recording, optionally only the events with `start_us <= t < stop_us`.

    The format is told by the content; data/README.md lists them all.

    Args:
        path: the file.
        start_us, stop_us: bounds in microseconds on the file's own clock (for DSEC's `.h5`: `t_offset` included).
        time_unit: of a file whose `t` does not tell; else floats with a fraction are seconds, whole numbers are
            microseconds, or nanoseconds where they count from 1970.

    Returns:
        x, y uint16; t int64 in microseconds; p uint8 in {0, 1}; each [N], in the order of the file. The attribute
        `size` is (height, width) of the sensor, None where the file does not say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds something else, points to other files, or its pickle names anything but
            plain numpy arrays.

    Example:
        >>> import numpy as np
        >>> from egptlib.scenes import save_events
        >>> both = {"x": np.array([3, 0]), "y": np.array([1, 0]), "t": np.array([10, 25]), "p": np.array([1, -1])}
        >>> save_events("events.npy", both)
        >>> events = load_events("events.npy", start_us=20)
        >>> events["x"].tolist(), events["t"].tolist(), events["p"].tolist()
        ([0], [25], [0])
    """
    with EventFile(path, time_unit=time_unit) as file:
        return file.window(start_us, stop_us)


class _Known(NamedTuple):
    """A block that was read once: where it is, its number of events, the bounds of t, and whether t is sorted."""

    place: Any
    num_events: int
    low: int = 0
    high: int = 0
    is_sorted: bool = True


class EventFile:
    """A recording kept open, for reading many windows of it. Arguments and errors as of `load_events`.

    Only one block of the file (some 100,000 events) and the window asked for are in memory. A window is exactly what a
    mask over all events gives, sorted or not: tables of foreign making (npy, npz, HDF5, text) are gone through once at
    the first window, since only all their times and polarities tell what they mean. Formats of cameras are read on as
    windows are asked for. Not for several threads at once.

    Attributes:
        format: name of the format.
        size: (height, width) of the sensor, None where the file does not say.
        is_coded: whether the format itself says the unit of time; else the numbers told it.
    """

    def __init__(self, path: str | PathLike[str], *, time_unit: TimeUnit | None = None) -> None:
        self.path = Path(path)
        self._source = open_source(self.path)
        self.format, self.size = self._source.format, self._source.size
        self.is_coded = self._source.is_coded
        self._unit: TimeUnit | None = time_unit
        self._meaning = Meaning() if self._source.is_coded else None
        self._known: list[_Known] = []
        self._next = self._source.first
        self._floor: int | None = None
        self._last: tuple[Any, Events] | None = None  # the block read last: the next window often begins in it

    def __len__(self) -> int:
        """Number of events; reads on to the end of the file."""
        return sum(block.num_events for block in self._blocks(None))

    def span(self) -> tuple[int, int] | None:
        """Least and greatest t in microseconds, None without events; reads on to the end of the file."""
        blocks = [block for block in self._blocks(None) if block.num_events]
        return (min(block.low for block in blocks), max(block.high for block in blocks)) if blocks else None

    def window(self, start_us: int | None = None, stop_us: int | None = None) -> Events:
        """Return the events with `start_us <= t < stop_us` (microseconds); None leaves it open."""
        return Events.join(list(self.chunks(start_us, stop_us)), self.size)

    def chunks(self, start_us: int | None = None, stop_us: int | None = None) -> Iterator[Events]:
        """Yield the events of a window piece by piece, as the file stores them; the arrays are read-only."""
        for block in self._blocks(stop_us):
            low = block.low if start_us is None else start_us
            stop = block.high + 1 if stop_us is None else stop_us
            if not block.num_events or block.high < low or block.low >= stop:
                continue
            events = self._read(block.place)
            if low > block.low or stop <= block.high:
                if block.is_sorted:
                    events = events.take(slice(*np.searchsorted(events["t"], [low, stop], side="left")))
                else:
                    events = events.take((events["t"] >= low) & (events["t"] < stop))
            if len(events["t"]):
                yield events

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _blocks(self, stop_us: int | None) -> Iterator[_Known]:
        """Yield the blocks that can hold events before `stop_us`; reads on only as far as that takes."""
        if self._meaning is None:
            self._survey()
        number = 0
        while number < len(self._known) or self._read_on(stop_us):
            yield self._known[number]
            number += 1

    def _read_on(self, stop_us: int | None) -> bool:
        if self._next is None or (stop_us is not None and self._floor is not None and self._floor >= stop_us):
            return False
        place = self._next
        t = self._read(place)["t"]
        bounds = (int(t.min()), int(t.max()), bool(np.all(t[1:] >= t[:-1]))) if len(t) else ()
        self._known.append(_Known(place, len(t), *bounds))
        return True

    def _read(self, place: Any) -> Events:
        if self._last is not None and self._last[0] == place:
            return self._last[1]
        block = self._source.read(place)
        assert self._meaning is not None
        events = self._meaning.events(block.columns, str(self.path))
        events.size = self.size
        for values in events.values():
            values.flags.writeable = False
        if place == self._next:
            self._next, self._floor = block.next, block.floor_us
        self._last = place, events
        return events

    def _survey(self) -> None:
        """Go through t and p of the whole file: what they mean, and which block has which times."""
        survey, blocks = Survey(str(self.path)), []
        place = self._next
        while place is not None:
            block = self._source.read(place, ("t", "p"))
            t = block.columns["t"]
            survey.add(t, block.columns["p"])
            bounds = np.array([t.min(), t.max()]) if len(t) else t
            blocks.append((_Known(place, len(t), is_sorted=bool(np.all(t[1:] >= t[:-1]))), bounds))
            place = block.next
        self._meaning = survey.meaning(self._unit, self._source.t_offset)
        for known, bounds in blocks:
            low_high = self._meaning.times(bounds).tolist() or (0, 0)
            self._known.append(known._replace(low=low_high[0], high=low_high[1]))
        self._next = None


_REFUSED = {
    b"#!AER-DAT2": "AEDAT 2 of jAER is not read; jAER's or DV's export (dv-gui, to AEDAT 4) converts it",
    b"#!AER-DAT3": "AEDAT 3 is not read; DV (dv-gui, to AEDAT 4) converts it",
    b"#ROSBAG": "a ROS bag is not read; rpg_dvs_ros, or the package rosbags, gives its events as text: t x y p",
    b"SQLite format 3": "a ROS 2 bag is not read; the package rosbags gives its messages",
    b"\x1f\x8b": "compressed with gzip; gunzip unpacks it",
}


def open_source(path: Path) -> Source:
    """Open a recording of any known format.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of them, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(4096)
    suffix = path.suffix.lower()
    hdf5 = b"\x89HDF\r\n\x1a\n"  # at 0, or behind a user block at 512, 1024, 2048, ...
    if any(head.startswith(hdf5, place) for place in (0, 512, 1024, 2048)) or suffix in (".h5", ".hdf5"):
        from egptlib.scenes.events._hdf5 import open_hdf5

        return open_hdf5(path)
    if head.startswith(b"\x93NUMPY") or suffix == ".npy":
        from egptlib.scenes.events._npy import open_npy

        return open_npy(path)
    if head.startswith(b"% "):
        from egptlib.scenes.events._prophesee import open_prophesee

        return open_prophesee(path)
    if head.startswith(b"PK\x03\x04") or suffix == ".npz":
        from egptlib.scenes.events._npy import open_npz

        return open_npz(path)
    if head.startswith(b"#!AER-DAT4"):
        from egptlib.scenes.events._aedat import open_aedat4

        return open_aedat4(path)
    for magic, words in _REFUSED.items():
        if head.startswith(magic):
            raise ValueError(f"{path}: {words}")
    if head and not re.search(rb"[^\t\n\r -~\x80-\xff]", head):
        from egptlib.scenes.events._text import open_text

        return open_text(path)
    raise ValueError(f"{path}: not a recording of events in a known format (data/README.md lists them)")
