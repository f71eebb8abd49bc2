#!/usr/bin/env bash
# Expected: tonic.transforms.ToVoxelGrid of tonic's own events (tonic.io.events_struct, what its datasets give) adds positive
#   and takes away negative events; the grid's sum is about their difference.
# Happens: tonic 1.7.0 writes -1 for the negative ones into a copy of the polarity column, which is bool in events_struct: -1
#   becomes True, and every event counts +1. With int8 polarities the grid is right. No warning.
# Meets it: networks on voxel grids (E2VID's and most optical flow's input) fed by tonic: they see how much changes and not
#   whether it grew brighter or darker; a network trained elsewhere gets an input it has never seen.
# Do: events.astype([("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "i1")]) before the transform.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q --no-deps tonic==1.7.0 importRosbag==1.0.4  # the parts used here need only these
"$d/v/bin/pip" install -q numpy==2.4.6 h5py==3.16.0 scipy==1.17.1 requests==2.34.2 tqdm==4.70.1 typing_extensions==4.16.0
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import numpy as np, tonic
from importlib.metadata import version
from tonic.transforms import ToVoxelGrid

print("tonic", version("tonic"), "| polarity in its events_struct:", np.dtype(tonic.io.events_struct)["p"])
chance = np.random.default_rng(0)
x, y = chance.integers(0, 32, 1000), chance.integers(0, 24, 1000)
events = tonic.io.make_structured_array(x, y, np.arange(1000) * 100, np.arange(1000) % 4 == 0)  # a quarter is positive
signed = events.astype([("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "i1")])
make = ToVoxelGrid(sensor_size=(32, 24, 2), n_time_bins=5)
own, right = float(make(events).sum()), float(make(signed).sum())
print(f"250 positive, 750 negative: sum of the grid {own:.1f}, with int8 polarities {right:.1f}")
all_positive = signed.copy()
all_positive["p"] = 1
assert right < -400 and own > 850 and np.array_equal(make(events), make(all_positive))
P
echo "as described"
