#!/usr/bin/env bash
# Expected: safetensors.numpy.save_file writes the array it is given, or refuses what it cannot write, as
#   safetensors.torch does ("You are trying to save a non contiguous tensor").
# Happens: safetensors 0.8.0 writes the bytes as they lie in memory under the array's shape: a transposed array, one in Fortran's
#   order (a pandas frame's values), or every second column comes back with its numbers in other places. No warning.
# Meets it: who stores states or weights from numpy: layers moved to the front, columns of an event table, a matrix turned for
#   another library. Shapes and types are right, so that only the results are odd.
# Do: np.ascontiguousarray before each save; compare one loaded array with what was saved.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
cd "$d"
"$d/v/bin/python" - <<'P'
import numpy as np
from importlib.metadata import version
from safetensors.numpy import load_file, save_file

print("safetensors", version("safetensors"), "numpy", np.__version__)
rows = np.arange(12, dtype=np.float32).reshape(3, 4)
arrays = {"as it is": rows, "transposed": rows.T, "Fortran's order": np.asfortranarray(rows), "every second column": rows[:, ::2]}
save_file(arrays, "a.safetensors")
found = load_file("a.safetensors")
for name, array in arrays.items():
    print(f"{name:20} saved {array.tolist()}\n{'':20} found {found[name].tolist()}")
assert {name for name, array in arrays.items() if np.array_equal(found[name], array)} == {"as it is"}
save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, "b.safetensors")
assert all(np.array_equal(load_file("b.safetensors")[name], array) for name, array in arrays.items())
P
echo "as described"
