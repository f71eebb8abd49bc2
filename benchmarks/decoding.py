"""Every way of decoding on the same prompts, whole calls timed, beside transformers' `generate` in the same process.

    python -m benchmarks.decoding --only drafting --minutes 8 --json runs/decoding.json
    python -m benchmarks.decoding --only best adapters --adapters FOLDER --minutes 8 --json runs/decoding.json
    python -m benchmarks.decoding --only sequence --pair midi --threads 2 --minutes 3 --json runs/midi.json
    python -m benchmarks.decoding --only baselines --pair my_pair.toml --assistant SMALL_LANGUAGE_MODEL
    python -m benchmarks.decoding --json runs/decoding.json --only nothing      # print the tables of what is there

A call starts with the scene's pictures in memory and ends with token ids: preprocessing, vision, prefill and decoding
of every model a method needs are inside, and all methods and baselines share one preprocessing. Methods take turns
prompt by prompt, after three warm-ups. Token ids of every call are compared with `generate`'s; where they part, the
position and the gap of the two best logits are told. `events blanked` is the same method with a drafter shown white
pictures, so only the difference to it is what the events contribute (told with an interval of its own, both resampled
together); `plain loop` is this library's own greedy decoding, so only the difference to it is what speculation
contributes. Every scene of the test split is asked one question before any is asked two; intervals are of whole
sequences resampled. Methods that run two models at once use both cores; so `generate`
is shown with two threads as well, and every method of that part is compared with it. "on paper" is computed, everything
else is measured. `generate, ...` is what transformers itself offers (prompt look-up, an assistant model over the same
vocabulary and over another one); what it refuses is told with its message.

Parts (`--only`) have the first two methods in common and fit ten minutes each; a part that was stopped goes on with
the next prompts when it is run again on the same `--json` file. Exits non-zero when a lossless method gives other
tokens where the logits do not tie.
"""

import argparse
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.decoding_methods import BASELINE, BOTH_CORES, PARTS, PLAIN, Bench, Prompt, languages_of
from egptlib._paths import write_json
from egptlib.decoding import DrafterThread, Round, first_divergence
from egptlib.measuring import (
    MethodRuns,
    compare_prefill_hiding,
    compare_scenes,
    compare_speed,
    contention,
    run_methods,
)
from egptlib.models import Pair, describe_pair, load_pair
from egptlib.scenes import SceneFolder, open_scenes
from egptlib.traces import trace_from_runs

BLANKED = ", events blanked"
TIE = 1e-3  # of logits: what float32 rounding of two ways to compute them can turn around
QUESTIONS = 10  # of every scene of streets


def run_part(
    bench: Bench,
    name: str,
    scenes: SceneFolder,
    chosen: list[tuple[int, int]],
    arguments: argparse.Namespace,
    rows: list[Any],
) -> None:
    """Add to `rows`, one a prompt, until the prompts or the minutes are used up."""
    end = time.monotonic() + 60 * arguments.minutes
    prompts = [(scenes[place], scenes[place].questions[number]) for place, number in chosen[:3]]
    table = bench.common() | PARTS[name](bench, prompts)
    run_methods(table, prompts, repeats=1, warm_ups=0)
    names: list[tuple[str, str]] = []
    first, merged = len(rows), {method: MethodRuns() for method in table}
    for place, number in chosen[first:]:
        if time.monotonic() > end:
            break
        scene = scenes[place]
        question = scene.questions[number]
        names.append((scene.id, question))
        runs = run_methods(table, [(scene, question)], repeats=arguments.repeats, warm_ups=0)
        row: dict[str, Any] = {"scene": scene.id, "sequence": scene.metadata["sequence"], "question": question}
        row["methods"] = {}
        own = runs[BASELINE].token_ids[0]
        for method, run in runs.items():
            for field in ("seconds", "token_ids", "identical", "generations"):
                getattr(merged[method], field).extend(getattr(run, field))
            kept = {"seconds": run.seconds[0], "token_ids": run.token_ids[0], "identical": run.identical[0]}
            kept["rounds"] = run.generations[0].rounds if run.generations else []
            if not run.identical[0] and method not in bench.rules:
                parted = first_divergence(bench.target, scene, question, run.token_ids[0], own)
                kept["divergence"] = None if parted is None else asdict(parted)
            row["methods"][method] = kept
        rows.append(row)
    if arguments.json is not None and len(rows) > first:
        told = describe_pair(bench.pair) | {"max_new_tokens": arguments.tokens}
        trace = trace_from_runs(merged, names, **told)
        trace.save(arguments.json.with_suffix(f".{name}.{first}.parquet"))


def table_of(rows: list[Any], truths: dict[str, Any], pair: Pair) -> dict[str, dict[str, Any]]:
    """By method: speed, tokens a pass, and where the answers are another's, what that changed."""
    runs = {name: MethodRuns() for name in rows[0]["methods"]}
    rounds: dict[str, list[Round]] = {name: [] for name in runs}
    for row in rows:
        for name, kept in row["methods"].items():
            runs[name].seconds.append(kept["seconds"])
            runs[name].token_ids.append(kept["token_ids"])
            runs[name].identical.append(kept["identical"])
            rounds[name] += [Round(*r) for r in kept["rounds"]]
    table, sequences = {}, [row["sequence"] for row in rows]
    for name, run in runs.items():
        figures: dict[str, Any] = asdict(compare_speed(run, runs[BASELINE], sequences))
        if name + BLANKED in runs:
            figures["times_blanked"] = asdict(compare_speed(run, runs[name + BLANKED], sequences))
        figures["times_plain_loop"] = sum(runs[PLAIN].seconds) / sum(run.seconds)
        if BOTH_CORES in runs:
            figures["times_two_threads"] = sum(runs[BOTH_CORES].seconds) / sum(run.seconds)
        if rounds[name]:
            figures["tokens_a_pass"] = sum(r.gained for r in rounds[name]) / len(rounds[name])
        if not all(run.identical):
            told: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
            for row in rows:
                for side, method in enumerate((name, BASELINE)):
                    text = pair.target.decode_text(row["methods"][method]["token_ids"])
                    told.setdefault(row["scene"], ({}, {}))[side][row["question"]] = text
            sides = list(zip(*told.values(), strict=True))
            figures["changes"] = asdict(compare_scenes(sides[0], sides[1], [truths.get(scene) for scene in told]))
            parted = [row["methods"][name].get("divergence") for row in rows]
            figures["divergences"] = [divergence for divergence in parted if divergence]
        table[name] = figures
    return table


def show(part: str, table: dict[str, dict[str, Any]], prompts: int, refused: dict[str, str]) -> bool:
    """Print a part's table; whether every lossless method was lossless but for ties."""
    sound = True
    print(f"\n{part}, {prompts} prompts")
    for name, message in refused.items():
        print(f"refused by transformers, {name}: {message}")
    for name, r in table.items():
        line = (
            f"{name:<52} {r['ratio_of_sums']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]  mean of ratios "
            f"{r['mean_of_ratios']:.2f}x  plain loop {r['times_plain_loop']:.2f}x  slower {r['slower']:.1%}  "
            f"identical {r['identical']:.1%}"
        )
        if "times_two_threads" in r:
            line += f"  generate on two threads {r['times_two_threads']:.2f}x"
        if "times_blanked" in r:
            b = r["times_blanked"]
            line += f"  against events blanked {b['ratio_of_sums']:.3f}x [{b['low']:.3f}, {b['high']:.3f}]"
        if "tokens_a_pass" in r:
            line += f"  tokens a pass {r['tokens_a_pass']:.2f}"
        if "(lossy)" in name and "changes" in r:
            c = r["changes"]
            line += f"  changed {c['changed']} of {c['answers']}, became wrong {c['became_wrong']} of {c['right']}"
            line += f", right {c['became_right']}"
        print(line)
        for d in r.get("divergences", []):
            print(f"    parts at {d['position']}: {d['token']} for {d['reference']}, gap of logits {d['gap']:.2e}")
            sound &= d["gap"] < TIE
    return sound


def hiding(bench: Bench, prompts: list[Prompt]) -> dict[str, dict[str, float]]:
    """Prefill hiding against the plain loop: measured with overlap, measured in sequence, computed on paper."""
    found = {}
    with DrafterThread(bench.drafter, bench.target.eos_token_ids) as thread:
        for drafter in (bench.process, thread):
            runs = compare_prefill_hiding(bench.target, drafter, prompts, max_new_tokens=bench.tokens)
            plain, between = sum(r.plain for r in runs), contention(runs)
            figures = {k: plain / sum(getattr(r, k) for r in runs) for k in ("overlapped", "in_sequence", "on_paper")}
            figures |= {"contention_target": between.target, "contention_drafter": between.drafter}
            for key in ("free_tokens", "free_accepted", "free_on_paper"):
                figures[key] = float(np.mean([getattr(r, key) for r in runs]))
            found[type(drafter).__name__] = figures
            print(
                f"prefill hidden by a {type(drafter).__name__}, against the plain loop, {len(prompts)} prompts: "
                + ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["drafting", "baselines", "hiding"], help=f"of {[*PARTS]}, hiding")
    parser.add_argument("--scenes", type=int, default=294, help="of the test split, in a mixed order")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each scene, at most")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the target's process")
    parser.add_argument("--minutes", type=float, default=8, help="of each part")
    parser.add_argument("--adapters", type=Path, help="folder with trained adapters, one folder a level")
    parser.add_argument("--pair", default="mini", help="mini, midi, or a pair.toml")
    parser.add_argument("--assistant", type=Path, nargs="+", default=[], help="text-only language models that assist")
    parser.add_argument("--source-layers", type=int, nargs="+", default=[2, 5, 8], help="target layers E3 was fed with")
    parser.add_argument("--json", type=Path, help="keep all runs here (and go on from it), traces beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair = load_pair(arguments.pair)
    scenes = open_scenes("streets", split="test", event_views=5, sampling=pair.target.sampling)
    order = np.random.default_rng(0).permutation(len(scenes))[: arguments.scenes].tolist()
    # One question of each scene, then the next one of each: many streets count for more than many questions.
    chosen = [
        (place, (nth + turn) % QUESTIONS) for turn in range(arguments.questions) for nth, place in enumerate(order)
    ]
    kept: dict[str, Any] = {"parts": {}, "hiding": {}, "tables": {}, "refused": {}}
    if arguments.json is not None and arguments.json.is_file():
        kept = json.loads(arguments.json.read_text())
    sound = True
    with ExitStack() as processes:
        bench = Bench(pair, processes, arguments.tokens, arguments.adapters, arguments.source_layers)
        if "baselines" in arguments.only:
            bench.assistants = languages_of(pair, arguments.assistant)
        for name in PARTS:
            if name in arguments.only:
                run_part(bench, name, scenes, chosen, arguments, kept["parts"].setdefault(name, []))
                kept.setdefault("refused", {})[name] = bench.refused
                if arguments.json is not None:
                    write_json(arguments.json, kept)
        if "hiding" in arguments.only:
            kept["hiding"] = hiding(bench, [(scenes[i], scenes[i].questions[n]) for i, n in chosen[:12]])
    truths = {scenes.ids[place]: slots.get("slots") for place, slots in enumerate(scenes.metadata())}
    for name, rows in kept["parts"].items():
        if rows:
            kept["tables"][name] = table_of(rows, truths, pair)
            sound &= show(name, kept["tables"][name], len(rows), kept.get("refused", {}).get(name, {}))
    if arguments.json is not None:
        write_json(arguments.json, kept)
        print(f"-> {arguments.json}")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
