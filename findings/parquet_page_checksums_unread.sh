#!/usr/bin/env bash
# Expected: a parquet file written with write_page_checksum=True tells a flipped bit when it is read.
# Happens: pyarrow does not compare the checksums unless each reader asks (page_checksum_verification=True), so flips in pages
#   load other values silently; and asked, it still loads other values where the flip is in the footer, which no checksum of
#   the format covers: key-value metadata, column names, statistics.
# Meets it: who keeps token ids, figures or their settings in parquet and trusts its checksums after a bad disk or copy.
# Do: ask for verification in every reader, and keep a digest of the whole file besides.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q pyarrow==26.0.1
cd "$d"
"$d/v/bin/python" - <<'P'
import pyarrow as pa
import pyarrow.parquet as pq

table = pa.table({"ids": pa.array(list(range(7, 407)), pa.int32()), "overlap": pa.array([i / 400 for i in range(400)])})
table = table.replace_schema_metadata({"pair": "a small drafter and a large target", "gamma": "5"})
pq.write_table(table, "t.parquet", write_page_checksum=True, use_dictionary=False, compression="none")
whole = open("t.parquet", "rb").read()
footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")

def silent(first, last, verify):
    """Flips between two places that load something else without an error."""
    count = 0
    for place in range(first, last, 5):
        data = bytearray(whole)
        data[place] ^= 1
        open("flipped.parquet", "wb").write(data)
        try:
            found = pq.read_table("flipped.parquet", page_checksum_verification=verify)
            count += not found.equals(table, check_metadata=True)
        except Exception:
            pass
    return count

print("pyarrow", pa.__version__, len(whole), "bytes, footer from", footer)
pages, checked, foot = silent(4, footer, False), silent(4, footer, True), silent(footer, len(whole), True)
print(f"flips that load other values: in pages {pages}, in pages when asked to verify {checked}, in the footer when asked {foot}")
assert pages > 100 and checked < pages / 20 and foot > 5
P
