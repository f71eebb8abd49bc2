"""AEDAT4 files written by hand (the layout is dv-processing's): events and frames, uncompressed."""

import struct
from pathlib import Path

import numpy as np

FORMATS = {(1, "uint8"): 0, (1, "uint16"): 2, (3, "uint8"): 16, (4, "uint8"): 24}  # OpenCV's codes of pixels


def write_aedat4(path: Path, events: dict, frames: list[np.ndarray], times: np.ndarray) -> Path:
    """Events in packets of 1000 and frames (as OpenCV has them: blue first) with their times, in order of time."""
    height, width = frames[0].shape[:2] if frames else (480, 640)
    info = "".join(_stream(number, name, height, width) for number, name in enumerate(("EVTS", "FRME")))
    info = f'<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">{info}</node></dv>'
    packets = [(int(time), 1, _frame(int(time), frame)) for time, frame in zip(times, frames, strict=True)]
    for start in range(0, len(events["t"]), 1000):
        part = {key: values[start : start + 1000] for key, values in events.items()}
        packets.append((int(part["t"][-1]), 0, _events(part)))
    data = b"#!AER-DAT4.0\r\n" + _table(b"IOHE", {1: struct.pack("<q", -1), 2: info.encode()})
    for _, stream, packet in sorted(packets, key=lambda packet: packet[0]):
        data += struct.pack("<ii", stream, len(packet)) + packet
    path.write_bytes(data)
    return path


def _stream(number: int, name: str, height: int, width: int) -> str:
    values = {"compression": "NONE", "originalModuleName": "camera", "originalOutputName": name.lower()}
    values |= {"typeDescription": name, "typeIdentifier": name}
    texts = "".join(f'<attr key="{key}" type="string">{value}</attr>' for key, value in values.items())
    size = f'<attr key="sizeX" type="int">{width}</attr><attr key="sizeY" type="int">{height}</attr>'
    at = f"/mainloop/Recorder/outInfo/{number}/"
    return f'<node name="{number}" path="{at}">{texts}<node name="info" path="{at}info/">{size}</node></node>'


def _frame(time: int, frame: np.ndarray) -> bytes:
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    fields: dict[int, bytes | np.ndarray] = {slot: struct.pack("<q", time) for slot in range(5)}
    fields |= {5: struct.pack("<b", FORMATS[channels, str(frame.dtype)])}
    fields |= {6: struct.pack("<h", frame.shape[1]), 7: struct.pack("<h", frame.shape[0])}
    return _table(b"FRME", fields | {10: np.frombuffer(frame.tobytes(), np.uint8)})


def _events(events: dict) -> bytes:
    kind = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("on", "?"), ("unused", "V3")])
    rows = np.zeros(len(events["t"]), kind)
    for name, key in (("t", "t"), ("x", "x"), ("y", "y"), ("on", "p")):
        rows[name] = events[key]
    return _table(b"EVTS", {0: rows})


def _table(name: bytes, fields: dict[int, bytes | np.ndarray]) -> bytes:
    """A size-prefixed flatbuffer of one table: numbers in place, texts (bytes over 8) and arrays behind it."""
    slots = max(fields) + 1
    vtable = bytearray(struct.pack("<HH", 4 + 2 * slots, 0) + bytes(2 * slots))
    body, behind = bytearray(4), []
    for slot, value in sorted(fields.items(), key=lambda field: -len(field[1]) if isinstance(field[1], bytes) else 0):
        is_far = isinstance(value, np.ndarray) or len(value) > 8
        size = 4 if is_far else len(value)
        body += bytes(-(len(body) + 4) % size)  # the prefix of 4 bytes counts
        struct.pack_into("<H", vtable, 4 + 2 * slot, len(body))
        if is_far:
            behind.append((len(body), value))
        body += value if isinstance(value, bytes) and not is_far else bytes(4)
    struct.pack_into("<H", vtable, 2, len(body))
    vtable += bytes(-len(vtable) % 8)
    table = 8 + len(vtable)  # behind root and name
    data = bytearray(struct.pack("<I", table) + name + vtable + body)
    struct.pack_into("<i", data, table, table - 8)
    for place, value in behind:
        data += bytes(-len(data) % 8)
        struct.pack_into("<I", data, table + place, len(data) - table - place)
        count = len(value)
        content = value if isinstance(value, bytes) else value.tobytes()
        data += struct.pack("<I", count) + content + b"\0"
    return struct.pack("<I", len(data)) + bytes(data)
