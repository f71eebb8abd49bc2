"""AEDAT 4: a file that iniVation's own library wrote, and its parts put together otherwise."""

import struct
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from egptlib.scenes import EventFile, load_events

# dv-processing 2.0.4, MonoCameraWriter: ZSTD, streams of events, frames and IMU, packets of 100 events
WRITTEN = Path(__file__).with_name("dv_processing_2.0.4.aedat4")
_I = np.arange(600)
EVENTS = {"x": 7 * _I % 346, "y": 11 * _I % 260, "t": 1_700_000_000_000_000 + 37_003 * _I, "p": _I // 3 % 2}


def test_22_seconds_of_the_makers_library() -> None:
    loaded = load_events(WRITTEN)
    for key, values in EVENTS.items():
        np.testing.assert_array_equal(loaded[key], values, err_msg=key)
    assert loaded.size == (260, 346)
    with EventFile(WRITTEN) as file:
        for start in range(1_700_000_000_000_000 - 9, 1_700_000_023_000_000, 1_777_777):
            inside = (EVENTS["t"] >= start) & (EVENTS["t"] < start + 3_000_000)
            np.testing.assert_array_equal(file.window(start, start + 3_000_000)["x"], EVENTS["x"][inside])


def packets(data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """The header, and (stream, compressed data) of each packet."""
    start = 14 + 4 + struct.unpack_from("<I", data, 14)[0]
    end = struct.unpack_from("<q", data, data.index(b"IOHE") + 32)[0]
    header, found = data[:start], []
    while start < end:
        stream, length = struct.unpack_from("<ii", data, start)
        found.append((stream, data[start + 8 : start + 8 + length]))
        start += 8 + length
    return header, found


@pytest.mark.parametrize(("code", "name"), [(0, None), (1, "lz4"), (4, "zstd")])
def test_every_compression_and_a_file_without_index(tmp_path: Path, code: int, name: str | None) -> None:
    header, found = packets(WRITTEN.read_bytes())
    place = header.index(b"IOHE") + 24
    assert struct.unpack_from("<i", header, place)[0] in (3, 4)
    body = b""
    for stream, data in found:
        plain = pyarrow.input_stream(pyarrow.py_buffer(data), compression="zstd").read()
        packed = plain if name is None else bytes(pyarrow.Codec(name).compress(plain))
        body += struct.pack("<ii", stream, len(packed)) + packed
    changed = bytearray(header)
    struct.pack_into("<i", changed, place, code)
    struct.pack_into("<q", changed, place + 8, -1)  # where the index of packets is: none
    (tmp_path / "a.aedat4").write_bytes(bytes(changed) + body)
    np.testing.assert_array_equal(load_events(tmp_path / "a.aedat4")["t"], EVENTS["t"])


@pytest.mark.parametrize("keep", [15, 100, 900, 3000, -2000])
def test_damage_is_one_error(tmp_path: Path, keep: int) -> None:
    (tmp_path / "a.aedat4").write_bytes(WRITTEN.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.aedat4: "):
        load_events(tmp_path / "a.aedat4")


def test_a_file_without_events_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.aedat4").write_bytes(WRITTEN.read_bytes().replace(b"EVTS", b"EVTX"))
    with pytest.raises(ValueError, match=r"a\.aedat4: this AEDAT 4 file holds no event stream"):
        load_events(tmp_path / "a.aedat4")
