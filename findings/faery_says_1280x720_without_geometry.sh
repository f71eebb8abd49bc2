#!/usr/bin/env bash
# Expected: where a RAW header names no geometry, a reader says so or asks.
# Happens: faery 0.7.1 says 1280x720 for every such file, also for one whose header names a 640x480 plugin and whose events end at
#   639x479; frames rendered with these dimensions are three quarters empty, and a copy written from them carries the size.
# Meets it: recordings of Gen3 cameras (EVK1): their headers have no geometry line.
# Do: pass dimensions_fallback, or take the events' own reach.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q faery==0.7.1 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import struct
import faery
from importlib.metadata import version

print("faery", version("faery"))
words = [0x8 << 28] + [i % 64 << 22 | i * 10 << 11 | i * 7 for i in range(64)]
header = b"% Date 2020-09-25 07:48:31\n% integrator_name Prophesee\n% plugin_name hal_plugin_gen3_fx3\n% evt 2.0\n"
open("a.raw", "wb").write(header + struct.pack(f"<{len(words)}I", *words))
stream = faery.events_stream_from_file("a.raw")
reach = max(int(packet["x"].max()) for packet in stream), max(int(packet["y"].max()) for packet in stream)
print("faery's dimensions", stream.dimensions(), "events reach", reach)
assert stream.dimensions() == (1280, 720) and reach == (630, 441)
P
echo "as described"
