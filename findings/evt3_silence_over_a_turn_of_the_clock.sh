#!/usr/bin/env bash
# Expected: the times of an EVT 3.0 recording, whose 24-bit clock comes round every 16.777216 s, are right after a silence too:
#   a time word lower than the one before means a turn, since time does not run back.
# Happens: evt3 and evlib see a turn only where the clock steps back by most of its range. After a silence of 12 s over the
#   turn (time words were sent only with events) all further times are 16.777216 s early, without a word, and evlib, which
#   sorts by time, puts these events in front of those that came before.
# Meets it: recordings with a filter or a cutter behind the camera, which drop the words of a silent scene.
# Do: decode with a count of every step back of the time words; compare the span with the frames of the same recording.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q evt3==0.4.1 evlib==0.13.2 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import struct
import numpy as np, evt3, evlib
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

print("evt3", version("evt3"), "evlib", version("evlib"))
t = np.concatenate([np.arange(10_000_000, 10_001_000, 10), np.arange(22_000_000, 22_001_000, 10)])
open("a.raw", "wb").write(recording(t.tolist()))
found = np.asarray(evt3.decode_file("a.raw").t).astype(np.int64) - t
print("evt3: error before and after the silence, us", np.unique(found[:100]), np.unique(found[100:]))
assert not found[:100].any() and (found[100:] == -(2**24)).all()
table = evlib.load_events("a.raw").collect()
times = table["t"].dt.total_microseconds().to_numpy()
print("evlib: first time", times[0], "of the first event", t[0], "| x of the first row", table["x"][0])
assert times[0] == 22_000_000 - 2**24 and table["x"][0] == 100
P
echo "as described"
