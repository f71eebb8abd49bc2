"""Replay of 11,000 answers at gammas 1 to 32: all at once against a plain loop over samples, gammas and rounds.

    python benchmarks/replay.py [--samples 11000] [--repeats 5] [--json FILE]

The answers are drawn: 1 to 50 tokens, most of them cut at 50 as in the recorded runs, matches with an acceptance of
their own for each answer. Both sides count passes, draft tokens and accepted tokens of every sample at every gamma;
that these are the same is checked. Exits non-zero when they are not.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from egptlib._paths import write_json
from egptlib.metrics import replay

GAMMAS = range(1, 33)
LIMIT = 50


def answers(samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Matches [sample, position] and lengths [sample]."""
    rng = np.random.default_rng(seed)
    match = rng.random((samples, LIMIT)) < rng.beta(4, 2, (samples, 1))
    return match, np.where(rng.random(samples) < 0.6, LIMIT, rng.integers(1, LIMIT + 1, samples))


def plain_loop(match: list[list[bool]], lengths: list[int]) -> np.ndarray:
    """Decode each sample at each gamma round by round: passes, drafted, accepted; int64 [3, sample, gamma]."""
    counts = np.zeros((3, len(match), len(GAMMAS)), dtype=np.int64)
    for s, (row, length) in enumerate(zip(match, lengths)):
        for g, gamma in enumerate(GAMMAS):
            passes = drafted = accepted = 0
            position = 1
            while position < length:
                count = min(gamma, LIMIT - position - 1)
                kept = 0
                while kept < count and position + kept < length and row[position + kept]:
                    kept += 1
                passes += 1
                drafted += count
                accepted += kept
                position += min(kept + 1, length - position)
            counts[:, s, g] = passes, drafted, accepted
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=11_000)
    parser.add_argument("--repeats", type=int, default=5, help="of the replay; the loop runs once")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    arguments = parser.parse_args()
    match, lengths = answers(arguments.samples)
    seconds = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        found = replay(match, lengths, GAMMAS, limit=LIMIT)
        counts = np.stack([found.passes, found.num_drafted, found.num_accepted])
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    expected = plain_loop(match.tolist(), lengths.tolist())
    loop = time.perf_counter() - start
    same, ours = bool((counts == expected).all()), statistics.median(seconds)
    rounds = int(counts[0].sum())
    print(f"{arguments.samples:,} samples x {len(GAMMAS)} gammas, {rounds:,} rounds")
    print(
        f"replay {ours:.2f} s (median of {arguments.repeats}, worst {max(seconds):.2f} s), plain loop {loop:.1f} s: ",
        end="",
    )
    print(f"{loop / ours:.0f} times as fast; {'the same' if same else 'DIFFERENT'} figures (to reach: under 2 s)")
    if arguments.json is not None:
        write_json(arguments.json, {"replay_seconds": ours, "loop_seconds": loop, "rounds": rounds, "identical": same})
        print(f"-> {arguments.json}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
