"""Time `event_images` against the published renderer's python loop, on the same events in the same process.

    python benchmarks/event_images.py [--events FILE.npy] [--parts 5]

Without a file it uses `../shared/samples/eventgpt_sample1.npy` where that exists, else as many random events.
Exits non-zero when the pictures differ or the ratio is under 20.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from egptlib.scenes import event_images, load_events

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "samples" / "eventgpt_sample1.npy"
REQUIRED = 20.0


def published_loop(events: dict[str, np.ndarray], n: int) -> list[np.ndarray]:
    """The renderer as it is published: one python iteration an event, the last event of a pixel wins."""
    total = len(events["x"])
    images = []
    for part in range(n):
        begin, stop = part * (total // n), total if part == n - 1 else (part + 1) * (total // n)
        x, y, p = (events[key][begin:stop] for key in ("x", "y", "p"))
        image = np.full((y.max() + 1, x.max() + 1, 3), 255, dtype=np.uint8)
        for column, row, polarity in zip(x, y, p):
            image[row, column] = np.array([0, 0, 255]) if polarity == 0 else np.array([255, 0, 0])
        images.append(image)
    return images


def best_ms(call: Callable[[], object], repeats: int) -> float:
    """Return the fastest of `repeats` calls: the one least disturbed by whatever else runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=Path, default=SAMPLE if SAMPLE.is_file() else None)
    parser.add_argument("--parts", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.events:
        events: dict[str, np.ndarray] = load_events(arguments.events)
    else:
        rng = np.random.default_rng(0)
        sizes = {"x": 640, "y": 480, "t": 50_000, "p": 2}
        events = {key: rng.integers(0, size, 132_268).astype(np.uint16) for key, size in sizes.items()}

    ours, theirs = event_images(events, arguments.parts), published_loop(events, arguments.parts)
    same = all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    loop = best_ms(lambda: published_loop(events, arguments.parts), 3)
    fast = best_ms(lambda: event_images(events, arguments.parts), 20)
    print(f"{arguments.events or 'random events'}: {len(events['x'])} events, {arguments.parts} pictures")
    print(f"python loop {loop:.1f} ms, event_images {fast:.2f} ms: {loop / fast:.0f} times faster")
    print("pixel-identical" if same else "THE PICTURES DIFFER")
    return 0 if same and loop / fast >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
