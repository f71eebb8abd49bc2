#!/usr/bin/env bash
# Expected: expelliarmus reads the times of EVT 3.0, one of the three formats it is made for.
# Happens: expelliarmus 1.1.12 adds a turn of 4,096 us (the lower 12 bits) on top of the time word that already says so: after two
#   seconds times are off by up to two seconds, 99 % of them wrong, without a word. Pixels and polarities are right.
# Meets it: tonic's and others' datasets read with it; rates and windows are off by a factor.
# Do: another decoder, or compare the last time with the recording's length.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q expelliarmus==1.1.12 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import struct
import numpy as np, expelliarmus
from importlib.metadata import version

def recording(times):
    """One event at each time, EVT 3.0; a time word (0x8) only where its 12 bits change, as where silence was cut out."""
    words, high = [], None
    for i, t in enumerate(times):
        if high != t >> 12:
            high = t >> 12
            words.append(0x8000 | high & 0xFFF)
        words += [0x6000 | t & 0xFFF, i % 480, 0x2000 | i % 2 << 11 | i % 640]
    return b"% evt 3.0\n% format EVT3;height=480;width=640\n% geometry 640x480\n% end\n" + struct.pack(f"<{len(words)}H", *words)

print("expelliarmus", version("expelliarmus"))
t = np.sort(np.random.default_rng(0).integers(0, 2_000_000, 20_000))
open("a.raw", "wb").write(recording(t.tolist()))
events = expelliarmus.Wizard(encoding="evt3", fpath="a.raw").read()
error = events["t"] - t
print(len(events), "events,", int((error != 0).sum()), "times wrong; errors", np.unique(error)[:4].tolist(), "... up to", int(error.max()), "us")
assert len(events) == 20_000 and np.array_equal(events["x"], np.arange(20_000) % 640)
assert (error != 0).mean() > 0.9 and set(np.unique(error) % 4096) == {0}
P
echo "as described"
