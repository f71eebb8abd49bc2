"""Time a camera's `.raw` (EVT 3.0) on its way to event images, against decoding it with evlib, in the same process.

    python benchmarks/raw_events.py [--millions 20] [--window-ms 200] [--parts 5]

The recording is made here: 1280x720, 5 million events a second, a third of them in vector words. Ours reads window by
window from an open `EventFile`; the baseline is what one does without it, evlib's decoder into arrays and the same
drawing. Prints events a second of both, the most memory that ours held, and exits non-zero when any picture differs,
ours is under 10 million events a second, or held more than three windows' worth of arrays and 64 MB.
"""

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from egptlib.scenes import EventFile, event_images

REQUIRED = 10e6
HEADER = b"% evt 3.0\n% format EVT3;height=720;width=1280\n% end\n"


def write_recording(path: Path, count: int, rate: float = 5e6) -> int:
    """Write about `count` events as EVT 3.0 and return how many: groups of one row, 9 single pixels and a vector."""
    rng = np.random.default_rng(0)
    groups = count // 14
    t = np.sort(rng.integers(0, int(groups * 14 / rate * 1e6), groups))
    vectors = rng.integers(1, 1 << 12, groups)
    columns = [0x8000 | (t >> 12 & 0xFFF), 0x6000 | (t & 0xFFF), rng.integers(0, 720, groups)]
    columns += [0x2000 | rng.integers(0, 2, groups) << 11 | rng.integers(0, 1280, groups) for _ in range(9)]
    columns += [0x3000 | rng.integers(0, 2, groups) << 11 | rng.integers(0, 1268, groups), 0x4000 | vectors]
    path.write_bytes(HEADER + np.stack(columns, axis=1).astype("<u2").tobytes())
    return 9 * groups + int(np.unpackbits(vectors.astype("<u2").view(np.uint8)).sum())


def ours(path: Path, window_us: int, parts: int) -> Iterator[list[np.ndarray]]:
    with EventFile(path) as file:
        start = 0
        while len((events := file.window(start, start + window_us))["t"]):
            yield event_images(events, parts)
            start += window_us


def with_evlib(path: Path, window_us: int, parts: int) -> Iterator[list[np.ndarray]]:
    import evlib

    table = evlib.load_events(str(path)).collect()
    t = table["t"].dt.total_microseconds().to_numpy()
    events = {"x": table["x"].to_numpy(), "y": table["y"].to_numpy(), "p": table["polarity"].to_numpy()}
    for start in range(0, int(t[-1]) + 1, window_us):
        inside = slice(*np.searchsorted(t, [start, start + window_us]))
        yield event_images({key: values[inside] for key, values in events.items()}, parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, default=20)
    parser.add_argument("--window-ms", type=int, default=200)
    parser.add_argument("--parts", type=int, default=5)
    arguments = parser.parse_args()
    settings = 1000 * arguments.window_ms, arguments.parts
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recording.raw")
        count = write_recording(path, int(1e6 * arguments.millions))
        next(ours(path, *settings))  # compiled, and the file in the page cache
        seconds = {}
        for name, read in (("ours", ours), ("evlib", with_evlib)):
            begin = time.perf_counter()
            pictures = sum(len(images) for images in read(path, *settings))
            seconds[name] = time.perf_counter() - begin
            print(f"{name:6} {count / seconds[name] / 1e6:6.1f} million events a second, {pictures} pictures")
        tracemalloc.start()
        for _ in ours(path, *settings):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        pairs = zip(ours(path, *settings), with_evlib(path, *settings), strict=True)
        same = all(np.array_equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))
    window = 13 * count / (pictures / arguments.parts)
    print(f"{seconds['evlib'] / seconds['ours']:.1f} times faster; {count} events in {path.name}")
    sizes = f"a window of events is {window / 1e6:.0f} MB, all of them {13 * count / 1e6:.0f} MB"
    print(f"ours held at most {peak / 1e6:.0f} MB; {sizes}")
    print("pixel-identical" if same else "THE PICTURES DIFFER")
    return 0 if same and count / seconds["ours"] >= REQUIRED and peak < 3 * window + 64e6 else 1


if __name__ == "__main__":
    sys.exit(main())
