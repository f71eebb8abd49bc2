#!/usr/bin/env bash
# Expected: "4.018307 12 7 1" in the text of the Event Camera Dataset is an event at 4,018,307 us.
# Happens: evlib 0.13.2 multiplies the float seconds and cuts off: some 2 % of the times are 1 us early, also in text it wrote
#   itself with twelve digits. Whole numbers of microseconds in the first column are multiplied by a million all the same.
# Meets it: who compares events of one recording read from text and from its RAW, or looks events up by time.
# Do: np.rint(seconds * 1e6); never astype(int) on its own.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q evlib==0.13.2 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import numpy as np, evlib
from importlib.metadata import version

print("evlib", version("evlib"))
t = np.sort(np.random.default_rng(0).integers(0, 5_000_000, 1000))
load = lambda path: evlib.load_events(path).collect()["t"].dt.total_microseconds().to_numpy()
open("seconds.txt", "w").write("".join(f"{time / 1e6:.6f} 12 7 {i % 2}\n" for i, time in enumerate(t)))
error = load("seconds.txt") - t
print("of 1000 times", int((error != 0).sum()), "are off, by", np.unique(error[error != 0]).tolist(), "us")
assert set(error.tolist()) == {0, -1}
assert np.array_equal(np.rint(np.loadtxt("seconds.txt")[:, 0] * 1e6), t)
evlib.save_events_to_text(t % 640, t % 480, t / 1e6, t % 2, "own.txt")
print("of its own text", int((load("own.txt") != t).sum()), "are off")
open("us.txt", "w").write("".join(f"{time} 12 7 {i % 2}\n" for i, time in enumerate(t)))
print("whole microseconds: last", load("us.txt")[-1], "instead of", t[-1])
assert (load("own.txt") != t).any() and load("us.txt")[-1] == t[-1] * 1_000_000
P
echo "as described"
