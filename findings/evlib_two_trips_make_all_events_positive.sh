#!/usr/bin/env bash
# Expected: events that evlib loaded, saved and loaded again have the same polarity.
# Happens: load_events of an HDF5 file gives -1/+1 where the file has 0/1; save_events_to_hdf5 writes the -1/+1 as they are; and
#   load_events takes every value but 0 for positive. After the second loading all events are positive, without a word.
# Meets it: any pipeline that loads, filters, saves and loads with evlib 0.13.2; and its reading of HDF5 that others wrote in
#   -1/+1.
# Do: write (p > 0) as 0/1; look at the share of positive events after every step.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q evlib==0.13.2 numpy==2.4.6 h5py==3.16.0
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import numpy as np, evlib, h5py
from importlib.metadata import version

print("evlib", version("evlib"))
n = np.arange(1000)
evlib.save_events_to_hdf5(n % 640, n % 480, n / 1e3, n % 2, "first.h5")
table = evlib.load_events("first.h5").collect()
print("first loading: polarities", sorted(table["polarity"].unique().to_list()))
columns = [table[name].to_numpy().astype(np.int64) for name in ("x", "y")]
evlib.save_events_to_hdf5(*columns, n / 1e3, table["polarity"].to_numpy().astype(np.int64), "second.h5")
with h5py.File("second.h5") as file:
    print("stored then: polarities", np.unique(file["events/ps"][()]).tolist())
again = evlib.load_events("second.h5").collect()["polarity"].unique().to_list()
print("second loading: polarities", again)
assert sorted(table["polarity"].unique().to_list()) == [-1, 1] and again == [1]
P
echo "as described"
