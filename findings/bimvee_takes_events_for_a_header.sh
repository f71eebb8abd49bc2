#!/usr/bin/env bash
# Expected: bimvee's importProph gives all events of a Prophesee RAW file (EVT 2.0), whose header says where it ends ("% end").
# Happens: bimvee 2.0.0 does not know that line: it takes lines for the header as long as the next byte is "%". Where the
#   first word of the events begins with that byte (0x25: one clock in 256), all up to the next byte 0x0a counts as a
#   comment. That mostly ends a word, so that the rest is read as if nothing were: the first events are gone, no warning.
# Meets it: recordings converted or cut by bimvee; windows of two tools begin at different events, and times that are counted
#   from the first event (its default) are off by what is lost.
# Do: read the header up to "% end" oneself; or compare the number of events with another reader's.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q --no-deps bimvee==2.0.0 numpy==2.4.6  # the parts used here need only these
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import contextlib, io
from importlib.metadata import version
import numpy as np
from bimvee.importProph import importProph

HEADER = b"% evt 2.0\n% format EVT2;height=720;width=1280\n% geometry 1280x720\n% end\n"
print("bimvee", version("bimvee"))
lost = {}
for clock in range(32, 48):  # the first time word, in steps of 64 us
    chance = np.random.default_rng(0)
    t = clock * 64 + np.sort(chance.integers(0, 200_000, 20_000))
    x, y, p = (chance.integers(0, most, len(t)) for most in (1280, 720, 2))
    words, high = [8 << 28 | clock], clock
    for each, column, row, sign in zip(*(numbers.tolist() for numbers in (t, x, y, p))):
        if each >> 6 != high:
            words.append(8 << 28 | (high := each >> 6))
        words.append(sign << 28 | (each & 63) << 22 | column << 11 | row)
    with open("a.raw", "wb") as file:
        file.write(HEADER + np.array(words, "<u4").tobytes())
    with contextlib.redirect_stdout(io.StringIO()):
        read = importProph(filePathOrName="a.raw", zeroTime=False)["data"]["ch0"]["dvs"]
    n = len(read["ts"])
    assert np.array_equal(read["x"], x[-n:]) and np.array_equal(read["y"], y[-n:]) and np.allclose(read["ts"] * 1e6, t[-n:])
    lost[clock] = len(t) - n
print("events lost of 20000, by the first time word:", lost)
assert lost[0x25] > 0 and sum(lost.values()) == lost[0x25]
P
echo "as described"
