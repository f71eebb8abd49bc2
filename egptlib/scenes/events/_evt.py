"""Words of EVT 2.0 and EVT 3.0 to events, compiled: one pass, all that carries over from word to word in `state`.

Both send the upper bits of the time in words of their own, and that clock comes round: after 4.8 hours (EVT 2.0) or
16.8 seconds (EVT 3.0). Time never runs back in a valid file, so each step back is one turn, however far it goes: a
silence without time words can hide most of a turn. A step back of less than half a turn, thus a silence of more than
half of one, is also what a damaged word looks like; `state[DOUBTFUL]` counts these.
"""

import numba
import numpy as np

# Places in `state`. BASE: time of the last time word in microseconds, turns included; -1 before the first one.
BASE, DOUBTFUL = 0, 1
_LOW, _Y, _X, _POLARITY = 2, 3, 4, 5
EVT2_STATE = (-1, 0)
EVT3_STATE = (-1, 0, 0, 0, 0, 0)

_Columns = dict[str, np.ndarray]


def decode_evt2(words: np.ndarray, state: np.ndarray) -> _Columns:
    """Decode uint32 [N]; `state` is changed."""
    return _columns(_evt2, words, state, 1)


def decode_evt3(words: np.ndarray, state: np.ndarray) -> _Columns:
    """Decode uint16 [N]; `state` is changed."""
    return _columns(_evt3, words, state, 12)


def _columns(decode, words, state, per_word):  # type: ignore[no-untyped-def]
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
