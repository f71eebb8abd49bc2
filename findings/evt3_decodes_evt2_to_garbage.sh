#!/usr/bin/env bash
# Expected: a decoder of EVT 3.0 refuses a RAW file whose header says "% evt 2.0" or "% evt 2.1".
# Happens: evt3 0.4.1 does not look: it takes the words as EVT 3.0 and returns events, another number of them, at pixels and times
#   that no camera saw.
# Meets it: Prophesee's cameras all write .raw; EVK1 and Gen3 recordings are EVT 2.0, OpenEB converts to 2.1.
# Do: read the header's "% evt" and "% format" lines before choosing a decoder.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q evt3==0.4.1 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import struct
import numpy as np, evt3
from importlib.metadata import version

print("evt3", version("evt3"))
rng = np.random.default_rng(0)
t, x, y = np.sort(rng.integers(0, 100_000, 2000)), rng.integers(0, 640, 2000), rng.integers(0, 480, 2000)
words, high = [], None
for time, column, row in zip(t.tolist(), x.tolist(), y.tolist()):
    if high != time >> 6:
        high = time >> 6
        words.append(0x8 << 28 | high)
    words.append(1 << 28 | (time & 63) << 22 | column << 11 | row)
open("a.raw", "wb").write(b"% evt 2.0\n% geometry 640x480\n% end\n" + struct.pack(f"<{len(words)}I", *words))
events = evt3.decode_file("a.raw")
found = len(events.t)
print("2000 events in the file,", found, "decoded; greatest x", int(np.max(events.x)), "of 639, last time", int(np.max(events.t)))
assert found != 2000 and found > 0
P
echo "as described"
