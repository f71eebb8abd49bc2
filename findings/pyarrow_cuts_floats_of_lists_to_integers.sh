#!/usr/bin/env bash
# Expected: pyarrow refuses to make 5.7 an integer, as it does for numpy arrays, data frames and casts ("was truncated").
# Happens: where the same number comes in a Python list (pa.array, Table.from_pylist, Table.from_pydict with a schema), and
#   also in a numpy array inside a list, pyarrow 26.0.1 cuts it to 5 without a word. A whole number too large for float32 is
#   refused there, one too large for float16 is rounded.
# Meets it: who stores records row by row under a schema: token ids or counts that a mean, a JSON file or pandas' missing
#   values have made floats come back as other numbers.
# Do: compare with the table's own to_pylist(), or pass each integer through operator.index first.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q pyarrow==26.0.1 numpy==2.4.2
"$d/v/bin/python" - <<'PY'
import numpy as np
import pyarrow as pa

print("pyarrow", pa.__version__)
ids = pa.schema([("ids", pa.list_(pa.int32()))])
from_list = pa.array([5.7, 6.2], pa.int32()).to_pylist()
from_rows = pa.Table.from_pylist([{"ids": [5.7]}, {"ids": np.array([6.2])}], schema=ids).to_pylist()
halves = pa.array([2049], pa.float16()).to_pylist()
print("from a list:", from_list, "from rows:", from_rows, "2049 as float16:", halves)
assert from_list == [5, 6] and from_rows == [{"ids": [5]}, {"ids": [6]}] and halves == [2048.0]
for make in (
    lambda: pa.array(np.array([5.7]), pa.int32()),
    lambda: pa.array([5.7]).cast(pa.int32()),
    lambda: pa.array([2**24 + 1], pa.float32()),
):
    try:
        make()
    except pa.ArrowInvalid as error:
        print("refused:", error)
    else:
        raise SystemExit("the same numbers were taken elsewhere, too")
PY
