"""Prophesee's ECF, the compression of Metavision's HDF5 files (filter 0x8ECF, which no package of filters has).

One chunk of a dataset: the number of events and how they are packed (32 bits), then all times, rows, columns and
polarities, each as runs: written anew from what github.com/prophesee-ai/hdf5_ecf reads.

    times    the first (64 bits), then bytes: upper half, what to add; lower half, how often that time occurs (15: the
             next two bytes say). An upper half of 15 adds the lower half to a longer step, four bits more each byte.
    rows     16 bits: row << 5 | how often (31: the next 16 bits say)
    columns  16 bits: column << 5 | which of the five to its right fired too, the nearest first
    polarity bytes: polarity << 7 | how often (127: the next two bytes say)

or columns with polarities in 12 bits each, four in six bytes; or rows, columns and polarities in 24, four in twelve.
"""

import numba
import numpy as np


def decode_ecf(chunk: bytes) -> dict[str, np.ndarray]:
    """Return x, y uint16, t int64 microseconds, p uint8 of one chunk; ValueError when it is damaged."""
    data = np.frombuffer(chunk, np.uint8)
    count = int.from_bytes(chunk[:4], "little") >> 2
    if len(data) < 12 or count > 65535:
        raise ValueError("not a chunk of ECF")
    x, y = np.zeros(count + 6, np.uint16), np.zeros(count + 6, np.uint16)
    t, p = np.zeros(count, np.int64), np.zeros(count + 6, np.uint8)
    # bytes behind the end are zeros, and no step reads more than twelve before it is found to have left the data
    end = _decode(np.concatenate([data, np.zeros(16, np.uint8)]), len(data), count, int(data[0]) & 3, x, y, t, p)
    if end < 0 or end > len(data):
        raise ValueError("a chunk of ECF is damaged")
    return {"x": x[:count], "y": y[:count], "t": t, "p": p[:count]}


@numba.njit(cache=True)
def _byte(data, at):  # type: ignore[no-untyped-def]
    return np.int64(data[at])


@numba.njit(cache=True)
def _word(data, at):  # type: ignore[no-untyped-def]
    return _byte(data, at) | _byte(data, at + 1) << 8


@numba.njit(cache=True)
def _times(data, at, told, most):  # type: ignore[no-untyped-def]
    """How often a value occurs, and where it goes on: the next word says it where no more could be told."""
    return (_word(data, at), at + 2) if told == most else (told, at)


@numba.njit(cache=True)
def _decode(data, size, count, packing, x, y, t, p):  # type: ignore[no-untyped-def]
    """Fill the columns; return where the data ended, or -1 where they do not make sense."""
    now, at = 0, 4
    for i in range(8):
        now |= _byte(data, at + i) << (8 * i)
    at, i = 12, 0
    while i < count:
        shift, step = 0, 0
        while at < size and data[at] >> 4 == 15:
            if shift < 63:
                step |= (_byte(data, at) & 15) << shift
            shift += 4
            at += 1
        now += step + (data[at] >> 4)
        times, at = _times(data, at + 1, _byte(data, at) & 15, 15)
        if at > size or times == 0 or i + times > count:
            return -1
        t[i : i + times] = now
        i += times
    if packing & 2:
        for i in range(0, count, 4):
            for j in range(4):  # 24 bits each, the upper ones first, in three words of 32
                bit = 96 - 24 * (j + 1)
                value = 0
                for k in range(3):
                    place = bit + 8 * k  # from the lowest bit of the three words taken as one number
                    value |= _byte(data, at + 4 * (2 - place // 32) + place % 32 // 8) << (8 * k)
                if i + j < count:
                    y[i + j], x[i + j], p[i + j] = value >> 12 & 0x7FF, value >> 1 & 0x7FF, value & 1
            at += 12
            if at > size:
                return -1
        return at
    i = 0
    while i < count:
        value = _word(data, at)
        times, at = _times(data, at + 2, value & 31, 31)
        if at > size or times == 0 or i + times > count:
            return -1
        y[i : i + times] = value >> 5
        i += times
    if packing & 1:
        for i in range(0, count, 4):
            # 12 bits each, the upper ones first, in three words of 16
            whole = _word(data, at) << 32 | _word(data, at + 2) << 16 | _word(data, at + 4)
            for j in range(4):
                if i + j < count:
                    value = whole >> (36 - 12 * j) & 0xFFF
                    x[i + j], p[i + j] = value >> 1, value & 1
            at += 6
            if at > size:
                return -1
        return at
    i = 0
    while i < count:
        value = _word(data, at)
        at += 2
        x[i] = value >> 5
        i += 1
        for j in range(5):
            if value >> (4 - j) & 1:
                x[i] = (value >> 5) + j + 1
                i += 1
        if at > size or i > count:
            return -1
    i = 0
    while i < count:
        value = _byte(data, at)
        times, at = _times(data, at + 1, value & 127, 127)
        if at > size or times == 0 or i + times > count:
            return -1
        p[i : i + times] = value >> 7
        i += times
    return at
