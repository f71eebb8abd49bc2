#!/usr/bin/env bash
# Expected: times of a DAT file go on when its 32-bit microseconds come round after 71.6 minutes.
# Happens: evio 0.1.0 gives int64 times that fall by 4,294.967296 s in the middle of the file; expelliarmus does the same and
#   says on stdout that the times are not monotonic.
# Meets it: long recordings in DAT, and short ones of a camera that was switched on an hour before.
# Do: add 2^32 at every step back of more than half the range.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q evio==0.1.0 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import struct
import numpy as np, evio
from importlib.metadata import version

print("evio", version("evio"))
t = 2**32 - 500 + 10 * np.arange(100)
words = [word for i, time in enumerate(t.tolist()) for word in (time & 0xFFFFFFFF, (i & 1) << 28 | i << 14 | i)]
header = b"% Data file containing CD events.\n% Version 2\n% Height 480\n% Width 640\n"
open("a.dat", "wb").write(header + bytes([12, 8]) + struct.pack(f"<{len(words)}I", *words))
events = evio.read("a.dat")
error = np.asarray(events["t"]).astype(np.int64) - t
print("type", events["t"].dtype, "| error before the turn", np.unique(error[:50]), "| after it", np.unique(error[50:]))
assert events["t"].dtype == np.int64 and not error[:50].any() and (error[50:] == -(2**32)).all()
P
echo "as described"
