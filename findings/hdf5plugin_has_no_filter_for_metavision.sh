#!/usr/bin/env bash
# Expected: hdf5plugin, "HDF5 compression filters for h5py", lets h5py read the HDF5 files of Prophesee's Metavision.
# Happens: they are compressed with ECF, filter 0x8ECF (36559), registered nowhere on PyPI: neither hdf5plugin 7.1.0 nor HDF5 has
#   it; the dataset opens, tells its type and length, and fails at the first value. The raw chunks can be read.
# Meets it: whoever gets an event recording as .hdf5 from Metavision Studio.
# Do: read_direct_chunk and decode (the codec is published), or convert with Metavision's own tools.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q hdf5plugin==7.1.0 h5py==3.16.0 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import h5py, hdf5plugin, numpy as np

print("hdf5plugin", hdf5plugin.version, "h5py", h5py.__version__)
kind = np.dtype([("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
with h5py.File("a.hdf5", "w") as file:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_filter(0x8ECF, h5py.h5z.FLAG_OPTIONAL, ())
    group = file.create_group("CD")
    data = h5py.h5d.create(group.id, b"events", h5py.h5t.py_create(kind), h5py.h5s.create_simple((4,)), properties)
    # four events at 100 us: number << 2 | packing 1, first time, run, row run, four of 12 bits
    chunk = bytes([17, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0x04]) + (3 << 5 | 4).to_bytes(2, "little")
    whole = sum((column << 1 | 1) << 12 * (3 - i) for i, column in enumerate((5, 6, 7, 8)))
    chunk += b"".join((whole >> shift & 0xFFFF).to_bytes(2, "little") for shift in (32, 16, 0))
    data.write_direct_chunk((0,), chunk, 0)
with h5py.File("a.hdf5") as file:
    dataset = file["CD/events"]
    print("opens:", dataset.shape, dataset.dtype.names, "| filter there:", h5py.h5z.filter_avail(0x8ECF))
    try:
        dataset[0]
        raise SystemExit("it was read")
    except OSError as error:
        print("first value:", str(error)[:70])
    assert dataset.id.read_direct_chunk((0,))[1] == chunk and not h5py.h5z.filter_avail(0x8ECF)
P
echo "as described"
