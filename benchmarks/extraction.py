"""Extraction by this revision and by an earlier one, each in a process of its own, in turns, torch on one thread.

Since 2026-11-30 a second thread reads the next scenes meanwhile.

    git worktree add EARLIER REVISION
    python benchmarks/extraction.py EARLIER [--scenes 20] [--questions 10] [--repeats 2]

Along both paths: seconds (the least of the repeats), peak memory (MB, and what is held before the run, with imports and
models), tied positions counted, and that tokens are equal and states within 1e-4 in float32. How much faster than the
way before the library that is, says the row `extraction` of `benchmarks/hidden_states.py`. Exits non-zero where an
answer differs or a required figure is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from egptlib._paths import data_root
from egptlib.hidden_states import HiddenStates

TOKENS = 50
ONCE = """
import json, sys, time, torch
from pathlib import Path
import egptlib
from egptlib.hidden_states import extract
from egptlib.models import load_pair
from egptlib.scenes import open_scenes
folder, path, num_scenes, questions, tokens = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(1)
pair, scenes = load_pair("mini"), open_scenes("streets", split="test", event_views=5).spread(num_scenes)
options = dict(path=path, max_new_tokens=tokens, num_questions=questions, dtype="float32")
extract(pair, scenes[:1], folder + "-warm", **options)
Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
status = lambda: dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line)
loaded = int(status()["VmRSS"].split()[0]) / 1024
start = time.perf_counter()
done = extract(pair, scenes, folder, **options)
seconds = time.perf_counter() - start
peak = int(status()["VmHWM"].split()[0]) / 1024
print(json.dumps(dict(seconds=seconds, peak=peak, loaded=loaded, ties=done.num_ties, of=egptlib.__file__)))
"""
missed: list[str] = []


def report(what: str, figure: float, bound: float, at_least: bool = True) -> None:
    good = figure >= bound if at_least else figure <= bound
    print(f"{what}: {figure:.4g} ({'at least' if at_least else 'at most'} {bound:g}){'' if good else '  MISSED'}")
    if not good:
        missed.append(what)


def compare(path: str, checkouts: dict[str, Path], folder: Path, arguments: argparse.Namespace) -> None:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for repeat in range(arguments.repeats):
        for name, checkout in checkouts.items():
            sizes = [str(n) for n in (arguments.scenes, arguments.questions, TOKENS)]
            done = subprocess.run(
                [sys.executable, "-P", "-c", ONCE, str(folder / f"{path}-{name}-{repeat}"), path, *sizes],
                env=os.environ | {"PYTHONPATH": str(checkout), "EGPTLIB_DATA": str(data_root())},
                check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            assert Path(runs[name][-1]["of"]).is_relative_to(checkout), runs[name][-1]
    least = {
        name: {k: min(run[k] for run in own) for k in ("seconds", "peak", "loaded", "ties")}
        for name, own in runs.items()
    }
    print(f"-- {path}: {least}")
    report(f"{path}, times as fast", least["earlier"]["seconds"] / least["now"]["seconds"], 1.6)
    report(f"{path}, peak memory, of the earlier", least["now"]["peak"] / least["earlier"]["peak"], 1, False)
    old, new = (HiddenStates.open(folder / f"{path}-{name}-0") for name in runs)
    differing, worst = 0, 0.0
    for a, b in zip(old, new, strict=True):
        assert a.token_ids is not None and b.token_ids is not None
        if torch.equal(a.token_ids, b.token_ids):
            for states in ("drafter_hidden", "target_hidden"):
                worst = max(worst, (getattr(a, states) - getattr(b, states)).abs().max().item())
        else:
            differing += 1
    report(f"{path}, answers of {len(old)} that differ", differing, 0, at_least=False)
    report(f"{path}, largest difference of a state", worst, 1e-4, at_least=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("earlier", type=Path, help="a checkout of the earlier revision")
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--paths", nargs="+", default=["target", "free"])
    arguments = parser.parse_args()
    checkouts = {"earlier": arguments.earlier.resolve(), "now": Path(__file__).resolve().parent.parent}
    with tempfile.TemporaryDirectory(prefix="egptlib-bench-") as name:
        for path in arguments.paths:
            compare(path, checkouts, Path(name), arguments)
    for what in missed:
        print(f"missed: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
