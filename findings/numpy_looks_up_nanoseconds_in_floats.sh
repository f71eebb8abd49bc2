#!/usr/bin/env bash
# Expected: np.searchsorted(t, start) finds the first row with t >= start, as the mask does, where all are whole numbers.
# Happens: uint64 and int64 have only float64 in common for numpy 2.4.6, so an unsigned column (ROS, HDF5) looked up with a
#   signed time, or with a plain Python number, is compared in float64, where nanoseconds since 1970 come in
#   steps of 256, and the window begins up to that much too early. Comparisons (t >= start) are exact, arithmetic with
#   Python numbers too. np.concatenate of a signed and an unsigned part gives floats, whose times are rounded for good.
# Meets it: who cuts event streams of epoch nanoseconds into windows by searchsorted: neighbouring windows share or lose
#   events, and counts differ from a mask's by a few.
# Do: t.astype(np.int64) once, before anything else; or give the bounds in the column's own type (t.dtype.type(start)).
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q numpy==2.4.6
"$d/v/bin/python" - <<'P'
import numpy as np

print("numpy", np.__version__)
first = 1_732_000_000_000_000_000
t = (first + np.arange(0, 1_000_000, 100)).astype(np.uint64)  # an event each 100 ns
start = first + 50_000
right = int((t < np.int64(start)).sum())
found = {type(s).__name__: int(np.searchsorted(t, s)) for s in (start, np.int64(start), np.uint64(start))}
print("by a mask", right, "| by searchsorted", found)
assert right == 500 and found["uint64"] == right and found["int"] == found["int64"] == 498
assert np.searchsorted(t.astype(np.int64), start) == right
joined = np.concatenate([t[:501], t[501:].astype(np.int64)])
print("joined:", joined.dtype, "| of", len(t), "times,", int((joined.astype(np.int64) != t.astype(np.int64)).sum()), "others")
assert joined.dtype == np.float64 and (joined.astype(np.int64) != t.astype(np.int64)).mean() > 0.9
P
echo "as described"
