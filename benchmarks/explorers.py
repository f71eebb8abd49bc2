"""Time of one move of each explorer, from the changed control to the new PNG, in the kernel's process.

    python benchmarks/explorers.py [--moves 20]

Inputs are as large as the notebooks give them: 13 pictures of 640 x 480 a scene, 60 answers of 50 tokens, a run of 50
events, twelve adapters. Exits non-zero when the median of an explorer is above 100 ms; browsers add about 10 ms.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from egptlib.decoding import Event
from egptlib.figures import (
    AnswerPair,
    acceptance_grid,
    browse_samples,
    compare_adapters,
    explore_acceptance,
    scrub_timeline,
)
from egptlib.scenes import QUESTIONS, Scene

REQUIRED_MS = 100.0


def samples(rng: np.random.Generator) -> tuple[list[Scene], list[AnswerPair]]:
    """Six scenes of noise, and ten answers to each that differ somewhere."""
    scenes, pairs = [], []
    for name in "abcdef":
        pictures = rng.integers(0, 256, (13, 480, 640, 3), dtype=np.uint8)
        metadata = {"events": "simulated"}
        scenes.append(
            Scene(
                name, name, list(pictures[:5]), pictures[5:], QUESTIONS, None, "last", "even", tuple(range(8)), metadata
            )
        )
        for question in QUESTIONS:
            words = [f"▁word{i}" for i in range(50)]
            pairs.append(AnswerPair(name, question, words, words[: rng.integers(50)] + ["▁other"]))
    return scenes, pairs


def events() -> list[Event]:
    """Both models' stages of one answer: prompt, then rounds of five draft tokens and a verification."""
    stamped = [Event(lane, stage, at, at + 0.02, {}) for lane in ("drafter", "target")
               for at, stage in zip((0.0, 0.02, 0.04), ("preprocess", "vision", "prefill"))]  # fmt: skip
    for start in np.arange(0.06, 0.5, 0.02).tolist():
        stamped += [
            Event("drafter", "draft", start, start + 0.01, {"drafted": 5}),
            Event("target", "verify", start + 0.01, start + 0.02, {"drafted": 5, "accepted": 3}),
        ]
    return stamped


def explorers(rng: np.random.Generator) -> Iterator[tuple[str, Any, str]]:
    """Name, widget, and the class of the control to move."""
    scenes, pairs = samples(rng)
    yield "samples", browse_samples(scenes, pairs), "IntSlider"
    mask = np.arange(50)[None] < rng.integers(5, 51, 60)[:, None]
    grid = acceptance_grid(rng.uniform(0, 1, mask.shape), rng.uniform(0, 1, mask.shape) < 0.8, mask)
    yield "acceptance", explore_acceptance(grid), "FloatSlider"
    yield "timeline", scrub_timeline(events()), "FloatSlider"
    table = pd.DataFrame(rng.uniform(0, 1, (12, 8)), columns=[f"figure_{i}" for i in range(8)])
    table.insert(0, "level", [f"adapter {i}" for i in range(12)])
    yield "adapters", compare_adapters(table), "SelectionSlider"


def below(widget: Any) -> Iterator[Any]:
    """The widget and all it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from below(child)


def places(control: Any, moves: int) -> Sequence[Any]:
    """Values to move a control to, each another than the one before."""
    if hasattr(control, "options"):
        return [control.options[i % len(control.options)] for i in range(1, moves + 1)]
    steps = np.linspace(control.min, control.max, moves + 2)[1:-1]
    return [type(control.value)(step) for step in steps]


def main() -> None:
    """Move every explorer, print the times, and fail where the median is too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=20)
    arguments = parser.parse_args()
    slow = []
    for name, widget, kind in explorers(np.random.default_rng(0)):
        control = next(one for one in below(widget) if type(one).__name__ == kind)
        seconds = []
        for value in places(control, arguments.moves):
            start = time.perf_counter()
            control.value = value
            seconds.append(time.perf_counter() - start)
        median, worst = 1000 * statistics.median(seconds), 1000 * max(seconds)
        print(f"{name:<11} median {median:6.1f} ms, worst {worst:6.1f} ms over {len(seconds)} moves")
        slow += [name] * (median > REQUIRED_MS)
    if slow:
        sys.exit(f"above {REQUIRED_MS:.0f} ms a move: {', '.join(slow)}")


if __name__ == "__main__":
    main()
