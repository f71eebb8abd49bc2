#!/usr/bin/env bash
# Expected: tonic.io.make_structured_array(x, y, t, p) keeps polarities -1/+1, or refuses them, and times in seconds.
# Happens: tonic 1.7.0 casts to its own types, bool and int64: -1 becomes True, so every event is positive, and float seconds
#   become whole ones, 0 for the first second. No warning.
# Meets it: who brings MVSEC's or evlib's events (seconds, -1/+1) into tonic's transforms.
# Do: p > 0 and np.rint(t * 1e6) before the call.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q --no-deps tonic==1.7.0 importRosbag==1.0.4  # the parts used here need only these
"$d/v/bin/pip" install -q numpy==2.4.6 h5py==3.16.0 scipy==1.17.1 requests==2.34.2 tqdm==4.70.1 typing_extensions==4.16.0
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import numpy as np, tonic
from importlib.metadata import version

print("tonic", version("tonic"))
x, t, p = np.arange(4), np.array([0.25, 0.5, 0.75, 1.25]), np.array([1, -1, 1, -1])
events = tonic.io.make_structured_array(x, x, t, p)
print("of t", t.tolist(), "p", p.tolist(), "become", events["t"].tolist(), events["p"].tolist())
assert events["p"].all() and events["t"].tolist() == [0, 0, 0, 1]
P
echo "as described"
