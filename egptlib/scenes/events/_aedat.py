"""AEDAT 4, what iniVation's DV writes for DAVIS and DVXplorer cameras.

A header (a FlatBuffer with the compression and an XML text about the streams), then packets of one stream each: stream
number, length, and a FlatBuffer that may be compressed. Of an event packet only one vector matters, of records of 16
bytes, so FlatBuffers are read here without their library. Frames and the rest in the same file are passed over.
Published at https://docs.inivation.com (software, dv, AEDAT file formats).
"""

import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from egptlib.scenes.events._fields import FIELDS
from egptlib.scenes.events._source import Block, OpenFile, Source

MAGIC = b"#!AER-DAT4.0\r\n"
_COMPRESSION = {0: None, 1: "lz4", 2: "lz4", 3: "zstd", 4: "zstd"}
_EVENT = np.dtype({"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "?"], "offsets": [0, 8, 10, 12], "itemsize": 16})  # fmt: skip # noqa: E501


def open_aedat4(path: Path) -> Source:
    """Open the first event stream of the file; ValueError when there is none or the file is damaged."""
    try:
        return _Aedat4(path)
    except (struct.error, ElementTree.ParseError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable AEDAT 4 file: {error}") from error


class _Aedat4(OpenFile):
    is_coded, format = True, "AEDAT 4"

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            file.seek(len(MAGIC))
            (length,) = struct.unpack("<I", file.read(4))
            header = file.read(length)
        table = _root(header, 0)
        self._compression = _COMPRESSION.get(_read(header, table, 0, "<i"), "unknown")
        end = _read(header, table, 1, "<q")
        self._end = end if end > 0 else path.stat().st_size  # no index of packets where the writer was killed
        text = _text(header, table, 2)
        if self._compression == "unknown" or "<!" in text:  # no entities
            raise ValueError(f"{path}: not a readable AEDAT 4 header")
        self._stream, self.size = self._choose(ElementTree.fromstring(text))
        self._file = path.open("rb")
        self.first = len(MAGIC) + 4 + length

    def _choose(self, info: ElementTree.Element) -> tuple[int, tuple[int, int] | None]:
        """Number and (height, width) of the first event stream."""
        for node in info.iterfind("./node[@name='outInfo']/node"):
            about = {attr.get("key"): attr.text or "" for attr in node.iter("attr")}
            if about.get("typeIdentifier") == "EVTS":
                known = about.get("sizeX", "").isdigit() and about.get("sizeY", "").isdigit()
                return int(node.get("name", "")), (int(about["sizeY"]), int(about["sizeX"])) if known else None
        raise ValueError(f"{self._path}: this AEDAT 4 file holds no event stream")

    def read(self, place: int, names: tuple[str, ...] = FIELDS) -> Block:
        """Read the packet at `place`; those of other streams give no events."""
        if place >= self._end:
            return Block({name: np.empty(0, _EVENT[name]) for name in FIELDS}, None)
        self._file.seek(place)
        try:
            stream, length = struct.unpack("<ii", self._file.read(8))
            following = place + 8 + length
            if length < 0 or following > self._end:
                raise ValueError("its length leaves the file")
            data = self._file.read(length) if stream == self._stream else b""
            events = self._events(data) if stream == self._stream else np.empty(0, _EVENT)
        except (struct.error, ValueError, OSError) as error:
            raise ValueError(f"{self._path}: the packet at byte {place} is damaged or cut off: {error}") from error
        return Block({name: events[name] for name in FIELDS}, following if following < self._end else None)

    def _events(self, data: bytes) -> np.ndarray:
        import pyarrow

        if self._compression:
            data = pyarrow.input_stream(pyarrow.py_buffer(data), compression=self._compression).read()
        table = _root(data, 4)  # behind its own length
        where = _offset(data, table, 0)
        if where is None:
            return np.empty(0, _EVENT)
        vector = where + struct.unpack_from("<I", data, where)[0]
        (count,) = struct.unpack_from("<I", data, vector)
        return np.frombuffer(data, _EVENT, count, vector + 4)


def _root(data: bytes, start: int) -> int:
    return start + int(struct.unpack_from("<I", data, start)[0])


def _offset(data: bytes, table: int, field: int) -> int | None:
    """Where a field of a FlatBuffer's table is, None where it was left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (length,) = struct.unpack_from("<H", data, vtable)
    place = 4 + 2 * field
    offset = struct.unpack_from("<H", data, vtable + place)[0] if place < length else 0
    return table + offset if offset else None


def _read(data: bytes, table: int, field: int, form: str) -> Any:
    where = _offset(data, table, field)
    return struct.unpack_from(form, data, where)[0] if where is not None else 0


def _text(data: bytes, table: int, field: int) -> str:
    where = _offset(data, table, field)
    if where is None:
        return ""
    start = where + struct.unpack_from("<I", data, where)[0]
    (length,) = struct.unpack_from("<I", data, start)
    return data[start + 4 : start + 4 + length].decode()
