"""Writers of cameras' formats, word by word from their published descriptions and sharing nothing with the readers."""

import itertools
import struct

import numpy as np


def long_recording(count: int = 4000, seed: int = 0, size: tuple[int, int] = (480, 640)) -> dict[str, np.ndarray]:
    """40 s in bursts between silences of up to 12 s, with rows of neighbours that fire at once."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.choice(rng.integers(0, 20_000, 900), count)) + 3_000_000
    for start, silence in ((800, 12_000_000), (1600, 3), (2400, 9_000_000), (3200, 15_990_000)):
        t[start:] += silence
    x, y = rng.integers(0, size[1], count), rng.integers(0, size[0], count)
    p = rng.integers(0, 2, count)
    for start in range(0, count - 60, 200):  # as a moving edge: a vector's worth and more
        part = slice(start, start + rng.integers(3, 40))
        t[part], y[part], p[part] = t[start], y[start], p[start]
        x[part] = np.sort(rng.choice(np.arange(x[start] % (size[1] - 60), x[start] % (size[1] - 60) + 60), 60, False))[
            : part.stop - part.start
        ]
    return {"x": x.astype("u2"), "y": y.astype("u2"), "t": t.astype("i8"), "p": p.astype("u1")}


def evt3(events: dict[str, np.ndarray], header: str, clock: bool = True, vectors: bool = True) -> bytes:
    """EVT 3.0; `clock`: time words also in silences, as a camera sends them; else one before each change alone."""
    words: list[int] = []
    high = low = row = None
    columns = [events[key].tolist() for key in "xytp"]
    total, i = len(columns[0]), 0
    while i < total:
        x, y, t, p = (column[i] for column in columns)
        if high != t >> 12:
            first = (t >> 12) if high is None or not clock else high + 1
            words += [0x8000 | (step & 0xFFF) for step in range(first, (t >> 12) + 1)]
            words += [0xA101, 0xE00D, 0x7003, 0xF123]  # a trigger, others, and what continues them
            high, low = t >> 12, None
        if low != t & 0xFFF:
            low = t & 0xFFF
            words.append(0x6000 | low)
        if row != y:
            row = y
            words.append(row)
        same = i + 1
        while same < total and [c[same] for c in columns[1:]] == [y, t, p] and columns[0][same] > columns[0][same - 1]:
            same += 1
        if not vectors or same - i < 3:
            words.append(0x2000 | p << 11 | x)
            i += 1
            continue
        base = x
        words.append(0x3000 | p << 11 | base)
        pending = columns[0][i:same]
        while pending:
            wide = 12 if len(pending) > 2 else 8
            mask = sum(1 << (column - base) for column in pending if column < base + wide)
            words.append((0x4000 if wide == 12 else 0x5000) | mask)
            pending = [column for column in pending if column >= base + wide]
            base += wide
        i = same
    return header.encode() + struct.pack(f"<{len(words)}H", *words)


def evt2(events: dict[str, np.ndarray], header: str) -> bytes:
    """EVT 2.0, with a trigger now and then."""
    words: list[int] = []
    high = None
    for x, y, t, p in zip(*(events[key].tolist() for key in "xytp")):
        if high != t >> 6:
            high = t >> 6
            words += [0x8 << 28 | (high & 0xFFFFFFF), 0xA << 28 | 1 << 8 | 1]
        words.append(p << 28 | (t & 0x3F) << 22 | x << 11 | y)
    return header.encode() + struct.pack(f"<{len(words)}I", *words)


def dat(events: dict[str, np.ndarray], header: str, kind: int = 0x0C) -> bytes:
    """DAT, version 2."""
    words: list[int] = []
    for x, y, t, p in zip(*(events[key].tolist() for key in "xytp")):
        words += [t & 0xFFFFFFFF, p << 28 | y << 14 | x]
    return header.encode() + bytes([kind, 8]) + struct.pack(f"<{len(words)}I", *words)


def ecf(events: dict[str, np.ndarray], packing: int) -> bytes:
    """One chunk of Prophesee's ECF; packing 0: masks and runs, 1: columns with polarities, 2: rows with both."""
    x, y, t, p = (events[key].tolist() for key in "xytp")
    data = struct.pack("<IQ", len(x) << 2 | packing, t[0])
    now = t[0]
    for time, times in _runs(t):
        step = time - now
        if step >= 15:
            while step:
                data += bytes([0xF0 | step & 15])
                step >>= 4
        now = time
        data += bytes([step << 4 | times]) if times < 15 else struct.pack("<BH", step << 4 | 15, times)
    if packing == 2:
        for i in range(0, len(x), 4):
            whole = 0
            for j in range(4):
                value = y[i + j] << 12 | x[i + j] << 1 | p[i + j] if i + j < len(x) else 0
                whole = whole << 24 | value
            data += struct.pack("<3I", whole >> 64, whole >> 32 & 0xFFFFFFFF, whole & 0xFFFFFFFF)
        return data
    for row, times in _runs(y):
        data += struct.pack("<H", row << 5 | times) if times < 31 else struct.pack("<HH", row << 5 | 31, times)
    if packing == 1:
        for i in range(0, len(x), 4):
            whole = 0
            for j in range(4):
                whole = whole << 12 | (x[i + j] << 1 | p[i + j] if i + j < len(x) else 0)
            data += struct.pack("<3H", whole >> 32, whole >> 16 & 0xFFFF, whole & 0xFFFF)
        return data
    i = 0
    while i < len(x):
        column, mask = x[i], 0
        i += 1
        for near in range(5):
            if i < len(x) and x[i] == column + near + 1:
                mask |= 16 >> near
                i += 1
        data += struct.pack("<H", column << 5 | mask)
    for polarity, times in _runs(p):
        data += bytes([polarity << 7 | times]) if times < 127 else struct.pack("<BH", polarity << 7 | 127, times)
    return data


def _runs(values: list[int]) -> list[tuple[int, int]]:
    return [(value, len(list(group))) for value, group in itertools.groupby(values)]
