"""Prophesee's files: RAW in EVT 2.0 and EVT 3.0, as cameras write them, and DAT, as their datasets hold them.

Written from the published descriptions (docs.prophesee.ai, data encoding formats). RAW is read in blocks of bytes; what
a block leaves behind (time, row, vector position) is the `state` with which the next one begins. Its words become
events in one compiled pass.

EVT sends the upper bits of the time in words of their own, and that clock comes round: after 4.8 hours (EVT 2.0) or
16.8 seconds (EVT 3.0). Time never runs back in a valid file, so each step back is one turn, however far it goes: a
silence without time words can hide most of a turn. A step back of less than half a turn, thus a silence of more than
half of one, is also what a damaged word looks like; `state[DOUBTFUL]` counts these.
"""

import re
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from egptlib.scenes.events._fields import FIELDS
from egptlib.scenes.events._source import Block, OpenFile, Source

BYTES_PER_BLOCK = 1 << 18
_DAT_CLOCK = 1 << 32  # its 32-bit microseconds come round every 71.6 minutes


class Header(NamedTuple):
    """The text before the binary part: lines "% key value"."""

    values: dict[str, str]
    end: int  # of the text, in bytes

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width), as the one or the other kind of file writes it."""
        text = self.values.get("format", "")
        fields = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
        fields |= {key.lower(): value for key, value in self.values.items()}
        if fields.get("height", "").isdigit() and fields.get("width", "").isdigit():
            return int(fields["height"]), int(fields["width"])
        match = re.fullmatch(r"(\d+)x(\d+)", self.values.get("geometry", ""))
        return (int(match[2]), int(match[1])) if match else None


def read_header(path: Path) -> Header:
    """Read lines that begin with "% ", up to "% end" where there is one."""
    values: dict[str, str] = {}
    end = 0
    with path.open("rb") as file:
        while (line := file.readline(4096)).startswith(b"%") and line.endswith(b"\n") and line.isascii():
            end += len(line)
            key, _, value = line[1:].decode().strip().partition(" ")
            if key == "end":
                break
            values.setdefault(key, value.strip())
    return Header(values, end)


def open_prophesee(path: Path) -> Source:
    """Open a file that begins with such a header.

    Raises:
        ValueError: an encoding that is not read here, such as EVT 2.1.
    """
    header = read_header(path)
    if "Height" in header.values or "Version" in header.values or header.values.get("Data", "").startswith("file"):
        return _Dat(path, header)
    named = header.values.get("format", "").split(";")[0].upper().removeprefix("EVT") or header.values.get("evt", "")
    version = {"2": "2.0", "3": "3.0", "21": "2.1", "4": "4.0"}.get(named, named)
    if version not in ("2.0", "3.0"):
        raise ValueError(
            f"{path}: the header says {f'EVT {version}' if version else 'no encoding'}; EVT 2.0 and EVT 3.0 are read. "
            "Metavision's metavision_file_to_hdf5 or metavision_file_to_dat converts it"
        )
    return _Raw(path, header, version)


class _Raw(OpenFile):
    """RAW: words of 32 (EVT 2.0) or 16 bits (EVT 3.0). Events before the first time word have no time: left out."""

    is_coded = True

    def __init__(self, path: Path, header: Header, version: str) -> None:
        self.format, self.size = f"Prophesee RAW EVT {version}", header.size
        self._path, self._file = path, path.open("rb")
        self._word = np.dtype("<u4" if version == "2.0" else "<u2")
        self._decode = partial(_columns, _evt2, 1) if version == "2.0" else partial(_columns, _evt3, 12)
        self.first = (header.end, EVT2_STATE if version == "2.0" else EVT3_STATE)

    def read(self, place: tuple[int, tuple[int, ...]], names: tuple[str, ...] = FIELDS) -> Block:
        start, before = place
        self._file.seek(start)
        data = self._file.read(BYTES_PER_BLOCK)
        words = np.frombuffer(data, self._word, len(data) // self._word.itemsize)
        if len(data) % self._word.itemsize:
            raise ValueError(f"{self._path}: cut off in the middle of a word, after {start + words.nbytes} bytes")
        state = np.array(before, np.int64)
        columns = self._decode(words, state)
        if state[DOUBTFUL] > before[DOUBTFUL]:
            warnings.warn(
                f"{self._path}: the clock runs back after byte {start}: taken as a turn of it in a long silence, so if "
                "the file is damaged all later times are too late",
                stacklevel=2,
            )
        following = (start + len(data), tuple(state.tolist())) if len(data) == BYTES_PER_BLOCK else None
        return Block(columns, following, int(state[BASE]))


class _Dat(OpenFile):
    """DAT: 8 bytes an event: 32-bit microseconds; x 14, y 14, polarity 4 bits."""

    is_coded, format = True, "Prophesee DAT"

    def __init__(self, path: Path, header: Header) -> None:
        self._path, self._file = path, path.open("rb")
        self.size = header.size
        self._file.seek(header.end)
        kind = self._file.read(2)
        if kind not in (b"\x00\x08", b"\x0c\x08"):
            self._file.close()
            raise ValueError(f"{path}: event type and size are {kind.hex(' ')}; expected 00 08 or 0c 08")
        self.first = (header.end + 2, 0)  # where, and the last time there

    def read(self, place: tuple[int, int], names: tuple[str, ...] = FIELDS) -> Block:
        start, last = place
        self._file.seek(start)
        data = self._file.read(BYTES_PER_BLOCK)
        if len(data) % 8:
            raise ValueError(f"{self._path}: cut off in the middle of an event after byte {start + len(data) // 8 * 8}")
        words = np.frombuffer(data, "<u4").reshape(-1, 2)
        t, rest = words[:, 0].astype(np.int64), words[:, 1]
        # the clock came round where a time is lower than the one before by more than half a turn
        steps = np.diff(t, prepend=last % _DAT_CLOCK)
        t += last - last % _DAT_CLOCK + _DAT_CLOCK * np.cumsum(steps < -_DAT_CLOCK // 2)
        columns: dict[str, np.ndarray] = {
            "x": (rest & 0x3FFF).astype(np.uint16),
            "y": (rest >> 14 & 0x3FFF).astype(np.uint16),
            "t": t,
            "p": (rest >> 28 & 1).astype(np.uint8),
        }
        more = len(data) == BYTES_PER_BLOCK
        return Block(columns, (start + len(data), int(t[-1])) if more else None)


# Places in `state`. BASE: time of the last time word in microseconds, turns included; -1 before the first one.
BASE, DOUBTFUL = 0, 1
_LOW, _Y, _X, _POLARITY = 2, 3, 4, 5
EVT2_STATE = (-1, 0)
EVT3_STATE = (-1, 0, 0, 0, 0, 0)


def _columns(decode, per_word, words, state):  # type: ignore[no-untyped-def]
    """Decode words, uint32 or uint16 [N], of so many events at most each; `state` is changed."""
    room = per_word * len(words)  # memory that is not written to is not taken
    x, y = np.empty(room, np.uint16), np.empty(room, np.uint16)
    t, p = np.empty(room, np.int64), np.empty(room, np.uint8)
    count = decode(words, state, x, y, t, p)
    return {"x": x[:count].copy(), "y": y[:count].copy(), "t": t[:count].copy(), "p": p[:count].copy()}


@numba.njit(cache=True)
def _next_base(base, high, unit, turn, state):  # type: ignore[no-untyped-def]
    """Time in microseconds of the time word `high` (in `unit` microseconds) that follows `base`."""
    if base < 0:
        return high * unit
    now = base - base % turn + high * unit
    if now < base:
        now += turn
        if now - base > turn // 2:
            state[DOUBTFUL] += 1
    return now


@numba.njit(cache=True)
def _evt2(words, state, x, y, t, p):  # type: ignore[no-untyped-def]
    base, count = state[BASE], 0
    for i in range(len(words)):
        word = np.int64(words[i])
        kind = word >> 28
        if kind <= 1:
            if base >= 0:
                x[count], y[count] = (word >> 11) & 0x7FF, word & 0x7FF
                t[count], p[count] = base + ((word >> 22) & 0x3F), kind
                count += 1
        elif kind == 8:
            base = _next_base(base, word & 0xFFFFFFF, 64, 1 << 34, state)
    state[BASE] = base
    return count


@numba.njit(cache=True)
def _evt3(words, state, x, y, t, p):  # type: ignore[no-untyped-def]
    base, low, row, column, polarity = state[BASE], state[_LOW], state[_Y], state[_X], state[_POLARITY]
    count = 0
    for i in range(len(words)):
        word = np.int64(words[i])
        kind, value = word >> 12, word & 0xFFF
        if kind == 0x2:  # one event
            if base >= 0:
                x[count], y[count], t[count], p[count] = value & 0x7FF, row, base + low, value >> 11
                count += 1
        elif kind == 0x4 or kind == 0x5:  # a vector: one bit a pixel, 12 or 8 of them
            mask, wide = (value, 12) if kind == 0x4 else (value & 0xFF, 8)
            if base >= 0:
                for bit in range(wide):
                    if mask >> bit & 1:
                        x[count], y[count], t[count], p[count] = column + bit, row, base + low, polarity
                        count += 1
            column += wide
        elif kind == 0x3:  # where the vectors begin
            column, polarity = value & 0x7FF, value >> 11
        elif kind == 0x0:
            row = value & 0x7FF
        elif kind == 0x6:
            low = value
        elif kind == 0x8:
            before = base
            base = _next_base(base, value, 4096, 1 << 24, state)
            if base != before:
                low = 0  # its own word follows
    state[BASE], state[_LOW], state[_Y], state[_X], state[_POLARITY] = base, low, row, column, polarity
    return count
