"""Every way of decoding on the same prompts, whole calls timed, beside transformers' `generate` in the same process.

    python benchmarks/decoding.py [--scenes 14] [--questions 10] [--repeats 2] [--threads 1] [--json FILE]
    python benchmarks/decoding.py --quick          # 3 scenes, 4 questions, one repeat

A call starts with the scene's pictures in memory and ends with token ids: preprocessing, vision, prefill and decoding
of every model a method needs are inside. Methods take turns prompt by prompt, after three warm-ups. Token ids of every
call are compared with `generate`'s. `events blanked` is the same drafter shown white pictures, so only the difference
to it is what the events contribute; `plain loop` is this library's own greedy decoding, so only the difference to it
is what speculation contributes. "on paper" is computed, everything else is measured. Exits non-zero when a lossless
method gives other tokens.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egptlib._paths import write_json
from egptlib.decoding import (
    BlankedDrafter,
    DrafterProcess,
    DrafterThread,
    Method,
    NgramDrafter,
    as_drafter,
    compare_prefill_hiding,
    compare_speed,
    contention,
    hidden_prefill_generate,
    run_methods,
    speculative_generate,
    transformers_generate,
)
from egptlib.models import Pair, describe_pair, load_pair
from egptlib.scenes import Scene, open_scenes
from egptlib.traces import trace_from_runs

BASELINE = "generate (transformers)"


def methods(pair: Pair, process: DrafterProcess, tokens: int, gammas: list[int]) -> dict[str, Method]:
    target, drafter = pair.target, as_drafter(pair.drafter, pair.target)

    def plain(scene: Scene, question: str) -> list[int]:
        return target.decode_greedy(target.start(scene, question), tokens)[0].tolist()

    def speculative(which: Any, gamma: int) -> Method:
        return lambda scene, question: speculative_generate(
            target, which, scene, question, gamma=gamma, max_new_tokens=tokens
        ).token_ids.tolist()

    def hidden(overlap: bool, free: int) -> Method:
        return lambda scene, question: hidden_prefill_generate(
            target,
            process,
            scene,
            question,
            overlap=overlap,
            max_free_tokens=free,
            gamma=gammas[-1],
            max_new_tokens=tokens,
        ).token_ids.tolist()

    table = {BASELINE: transformers_generate(target, tokens), "plain loop": plain}
    table["prompt look-up (transformers)"] = transformers_generate(target, tokens, prompt_lookup_num_tokens=5)
    table["n-grams, gamma 5"] = speculative(NgramDrafter(target.tokenizer), 5)
    for gamma in gammas:
        table[f"EventGPT, gamma {gamma}"] = speculative(drafter, gamma)
        table[f"EventGPT, events blanked, gamma {gamma}"] = speculative(BlankedDrafter(drafter), gamma)
    table["prefill hidden, with overlap"] = hidden(True, 32)
    table["prefill hidden, up to 12 free"] = hidden(True, 12)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=14, help="taken evenly from the test split; 294 are all")
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--gammas", type=int, nargs="+", default=[3, 5, 8])
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the target's process")
    parser.add_argument("--quick", action="store_true", help="3 scenes, 4 questions, one repeat, gamma 5")
    parser.add_argument("--hiding", action="store_true", help="also process against thread, with and without overlap")
    parser.add_argument("--json", type=Path, help="keep the table here, and the trace of all runs beside it")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.scenes, arguments.questions, arguments.repeats, arguments.gammas = 3, 4, 1, [5]
    torch.set_num_threads(arguments.threads)
    pair, scenes = load_pair("mini"), open_scenes("streets", split="test", event_views=5)
    chosen = [scenes[i] for i in np.linspace(0, len(scenes) - 1, min(arguments.scenes, len(scenes)), dtype=int)]
    prompts = [(scene, question) for scene in chosen for question in scene.questions[: arguments.questions]]
    drafter, end = as_drafter(pair.drafter, pair.target), pair.target.eos_token_ids
    with DrafterProcess(drafter, end) as process:
        table = methods(pair, process, arguments.tokens, arguments.gammas)
        rows = run_methods(table, prompts, repeats=arguments.repeats)
        results = {name: asdict(compare_speed(row, rows[BASELINE])) for name, row in rows.items()}
        for name, r in results.items():
            print(
                f"{name:<38} {r['ratio_of_sums']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]  mean of ratios "
                f"{r['mean_of_ratios']:.2f}x  slower {r['slower']:.1%}  identical {r['identical']:.1%}"
            )
        few = prompts[:: max(1, len(prompts) // 12)]
        hiding = {"process": _hiding(pair, process, few, arguments.tokens)}
    if arguments.hiding:
        with DrafterThread(drafter, end) as thread:
            hiding["thread"] = _hiding(pair, thread, few, arguments.tokens)
    if arguments.json is not None:
        write_json(arguments.json, {"methods": results, "hiding": hiding, "prompts": len(prompts)})
        trace = trace_from_runs(rows, prompts, **describe_pair(pair), max_new_tokens=arguments.tokens)
        trace.save(arguments.json.with_suffix(".parquet"))
        print(f"-> {arguments.json}")
    return 0 if all(r["identical"] == 1 for r in results.values()) else 1


def _hiding(pair: Pair, drafter: Any, prompts: list[tuple[Scene, str]], tokens: int) -> dict[str, float]:
    """Prefill hiding against the plain loop: measured with overlap, measured in sequence, computed on paper."""
    runs = compare_prefill_hiding(pair.target, drafter, prompts, max_new_tokens=tokens)
    plain, between = sum(r.plain for r in runs), contention(runs)
    figures = {k: plain / sum(getattr(r, k) for r in runs) for k in ("overlapped", "in_sequence", "on_paper")}
    print(
        f"prefill hidden by a {type(drafter).__name__}, against the plain loop: measured with overlap "
        f"{figures['overlapped']:.2f}x, in sequence {figures['in_sequence']:.2f}x, on paper "
        f"{figures['on_paper']:.2f}x; contention target {between.target:.2f}, drafter {between.drafter:.2f}"
    )
    return figures | {"contention_target": between.target, "contention_drafter": between.drafter}


if __name__ == "__main__":
    sys.exit(main())
