"""What others on the machine cost: methods beside neighbours that compute, with threads that spin and that sleep.

    python benchmarks/busy_machine.py [--neighbours 0 1 4] [--prompts 6] [--sequences 8]

Each row is a process of its own, whose threads wait for one another as it says: `before` is what torch's OpenMP does by
itself, `ours` what `import egptlib` asks for. Whole calls on the mini pair, seconds by the clock and of the CPU, all
processes of a method together; every answer is compared with transformers' `generate` on one thread. Exits non-zero
where one differs, or where our threads take more than four times the CPU seconds that they take alone.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from typing import Any

import psutil
import torch

from egptlib.adapters import load_adapter
from egptlib.decoding import (
    DrafterProcess,
    adapted_drafter,
    as_drafter,
    hidden_prefill_generate,
    pipelined_generate,
    speculative_generate,
)
from egptlib.measuring import Method, transformers_generate, with_threads
from egptlib.models import load_pair
from egptlib.scenes import open_scenes

TOKENS = 50
BASELINE = "generate, 1 thread"
NEIGHBOUR = "while True: sum(range(10_000))"


def cpu_seconds() -> float:
    """Of this process and its children so far."""
    me = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (me, *me.children(recursive=True)))


def measure(num_prompts: int, sequences: int) -> dict[str, dict[str, Any]]:
    """By method: seconds, CPU seconds, and whether all answers were the baseline's."""
    pair = load_pair("mini")
    scenes = open_scenes("streets", split="test", event_views=5, num_sequences=sequences).spread(num_prompts)
    prompts = [(scene, scene.questions[nth % len(scene.questions)]) for nth, scene in enumerate(scenes)]
    target, drafter = pair.target, as_drafter(pair.drafter, pair.target)
    cores = os.cpu_count() or 1
    with DrafterProcess(drafter, target.eos_token_ids) as process:
        options: dict[str, Any] = {"gamma": 8, "max_new_tokens": TOKENS}
        e3 = adapted_drafter(pair, load_adapter("mini-E3"))
        generate = transformers_generate(target, TOKENS)
        sequence = partial(speculative_generate, target, drafter, **options)
        beside: dict[str, Method] = {
            "prefill hidden, then E3": partial(hidden_prefill_generate, target, process, then=e3, **options),
            "pipelined": partial(pipelined_generate, target, process, **options | {"gamma": 3}),
        }
        methods = {BASELINE: with_threads(generate, 1), "EventGPT in sequence, 1 thread": with_threads(sequence, 1)}
        methods |= {f"generate, {cores} threads": with_threads(generate, cores)}
        methods |= {f"EventGPT in sequence, {cores} threads": with_threads(sequence, cores)}
        methods |= {name: with_threads(method, cores) for name, method in beside.items()}
        told: dict[str, dict[str, Any]] = {n: {"seconds": 0.0, "cpu": 0.0, "identical": True} for n in methods}
        for nth, prompt in enumerate([prompts[0], *prompts]):  # the first warms up
            answers = {}
            for name, method in methods.items():
                start, spent = time.perf_counter(), cpu_seconds()
                answer = method(*prompt)
                answers[name] = answer if isinstance(answer, list) else answer.token_ids.tolist()
                if nth:
                    told[name]["seconds"] += time.perf_counter() - start
                    told[name]["cpu"] += cpu_seconds() - spent
                told[name]["identical"] &= answers[name] == answers[BASELINE]
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--once", action="store_true", help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.prompts, arguments.sequences)))
        return 0
    sound, alone = True, dict[tuple[str, str], float]()
    command = [sys.executable, __file__, "--once", "--prompts", str(arguments.prompts)]
    command += ["--sequences", str(arguments.sequences)]
    for count in sorted(arguments.neighbours):
        for policy in ("before", "ours"):
            names = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
            given = {name: value for name, value in os.environ.items() if name not in names}
            asked = [sys.executable, "-c", "import egptlib, os; print(os.environ['GOMP_SPINCOUNT'])"]
            ours = subprocess.check_output(asked, env=given, text=True).strip()  # here torch is imported before
            given |= {"GOMP_SPINCOUNT": "300000" if policy == "before" else ours}
            others = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(count)]
            try:
                done = subprocess.run(command, env=given, check=True, stdout=subprocess.PIPE, text=True)
            finally:
                for other in others:
                    other.kill()
            told = json.loads(done.stdout.splitlines()[-1])
            for name, row in told.items():
                ratio = told[BASELINE]["seconds"] / row["seconds"]
                burn = row["cpu"] / alone.setdefault((policy, name), row["cpu"])
                line = f"{count} neighbours, {policy:<6} {name:<32} {row['seconds']:6.2f} s  CPU {row['cpu']:6.2f} s"
                line += f"  {ratio:.2f}x of generate  CPU {burn:.2f} of alone  identical {row['identical']}"
                print(line, flush=True)
                sound &= row["identical"] and (policy == "before" or burn <= 4)
    return 0 if sound else 1


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    sys.exit(main())
