#!/usr/bin/env bash
# Expected: the 34-bit clock of EVT 2.0 comes round after 4.77 hours (17,179.869184 s); later events go on from there.
# Happens: evlib 0.13.2 counts another turn at each time word that follows it, not one: the next events are 0 turns late, then
#   1, 2, 3, ... (a time word comes every 64 us: after a second events are years late). Without a word.
# Meets it: a camera that has been powered for an afternoon: its clock runs from power-on, the recording may be of a minute.
# Do: add 2^34 us at each step back of the time words yourself.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q evlib==0.13.2 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import struct
import numpy as np, evlib
from importlib.metadata import version

print("evlib", version("evlib"))
t = 2**34 - 500 + 10 * np.arange(100)  # the turn is in the middle
words, high = [], None
for i, time in enumerate(t.tolist()):
    if high != time >> 6:
        high = time >> 6
        words.append(0x8 << 28 | high & 0xFFFFFFF)
    words.append((i & 1) << 28 | (time & 63) << 22 | i << 11 | i)
header = b"% evt 2.0\n% format EVT2;height=480;width=640\n% geometry 640x480\n% end\n"
open("a.raw", "wb").write(header + struct.pack(f"<{len(words)}I", *words))
error = evlib.load_events("a.raw").collect()["t"].dt.total_microseconds().to_numpy() - t
print("events", len(error), "| error before the turn, us", np.unique(error[:50]), "| after it", np.unique(error[50:]))
assert not error[:50].any() and set(np.unique(error[50:]) // 2**34) == set(range(8)) and not (error % 2**34).any()
P
echo "as described"
