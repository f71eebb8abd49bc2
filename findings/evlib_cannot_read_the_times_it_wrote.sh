#!/usr/bin/env bash
# Expected: save_events_to_hdf5 and load_events of one library are each other's inverse.
# Happens: evlib 0.13.2 writes `events/ts` as float seconds, and on reading cuts floats to whole numbers and takes these for
#   microseconds: 1,000 events of five seconds have the times 0, 1, 2, 3 and 4 us. No warning.
# Meets it: who converts a recording to HDF5 with evlib and goes on with the file; also float seconds of E2VID's HDF5.
# Do: read such files with h5py: rint(ts * 1e6); or keep times as integers.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q evlib==0.13.2 numpy==2.4.6 h5py==3.16.0
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import numpy as np, evlib, h5py
from importlib.metadata import version

print("evlib", version("evlib"))
t = np.sort(np.random.default_rng(0).integers(0, 5_000_000, 1000))
x, p = np.arange(1000) % 640, np.arange(1000) % 2
evlib.save_events_to_hdf5(x, x, t / 1e6, p, "a.h5")
with h5py.File("a.h5") as file:
    stored = file["events/ts"][()]
print("stored", stored.dtype, stored[:2], "exact:", np.array_equal(np.rint(stored * 1e6), t))
times = evlib.load_events("a.h5").collect()["t"].dt.total_microseconds().to_numpy()
print("loaded", len(np.unique(times)), "different times of", len(np.unique(t)), ":", np.unique(times).tolist())
assert np.array_equal(np.rint(stored * 1e6), t) and np.array_equal(np.sort(times), t // 1_000_000)
P
echo "as described"
