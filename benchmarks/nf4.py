"""Loading a pair in 4 bit on a CPU: bitsandbytes' own code, this library's, and a pair that was saved so.

    python benchmarks/nf4.py PAIR [--saved PAIR] [--repeats 2] [--json FILE]

PAIR is the `pair.toml` of unquantized checkpoints, e.g. of `egptlib random-pair`; --saved what `egptlib quantize` made
of it. Each load is a process of its own, in turns, with the files in the page cache, since the kernel that is replaced
is replaced for a whole process. Compared are digests of all weights and scales of both models, byte by byte. Asked: the
same bytes, and at most half of the seconds. Exits non-zero where either is missed.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from egptlib._paths import write_json

KINDS = ("bitsandbytes", "egptlib", "saved")
WANTED = 2.0


def load(pair: str, kind: str) -> dict[str, Any]:
    """Load a pair in this process; seconds, processor seconds, peak memory, and a digest of what was loaded."""
    from egptlib.models import _quantization, load_pair, pair_settings

    if kind == "bitsandbytes":
        setattr(_quantization, "quantize_fast", lambda: None)  # noqa: B010
    settings = pair_settings(pair, quantization="nf4", device="cpu")
    import bitsandbytes  # noqa: F401

    start, cpu = time.perf_counter(), time.process_time()
    models = load_pair(settings)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    digest = hashlib.sha256()
    for model in (models.drafter, models.target):
        for name, weight in sorted(model.module.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
            digest.update(_bytes(weight))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "digest": digest.hexdigest(), "sides": models.load_seconds}


def _bytes(weight: Any) -> bytes:
    import torch

    content: bytes = weight.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pair")
    parser.add_argument("--saved")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kind", choices=KINDS, help="load once in this process, and print the figures")
    given = parser.parse_args()
    if given.kind:
        print(json.dumps(load(given.pair, given.kind)))
        return 0
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS if kind != "saved" or given.saved}
    for repeat in range(given.repeats + 1):
        for kind, found in runs.items():
            pair = given.saved if kind == "saved" else given.pair
            command = [sys.executable, __file__, pair, "--kind", kind]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            if repeat:  # the first fills the page cache
                found.append(json.loads(ran.stdout.splitlines()[-1]))
    medians = {kind: statistics.median(run["seconds"] for run in found) for kind, found in runs.items()}
    base = medians["bitsandbytes"]
    for kind, found in runs.items():
        cpu, peak = (statistics.median(run[name] for run in found) for name in ("cpu", "peak"))
        print(
            f"{kind:14s} {medians[kind]:6.2f} s, {cpu:6.2f} processor s, peak {peak:5.2f} GiB, "
            f"{base / medians[kind]:5.2f}x of bitsandbytes"
        )
    same = len({run["digest"] for found in runs.values() for run in found}) == 1
    print(f"bytes of all weights and scales: {'the same' if same else 'NOT the same'}")
    if given.json:
        write_json(given.json, {"runs": runs, "same": same})
    return 0 if same and base >= WANTED * medians["egptlib"] else 1


if __name__ == "__main__":
    sys.exit(main())
