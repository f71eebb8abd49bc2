"""Every way of decoding on the same prompts, whole calls timed, beside transformers' `generate` in the same process.

    python benchmarks/decoding.py --only drafting --minutes 8 --json runs/decoding.json
    python benchmarks/decoding.py --only best adapters --adapters FOLDER --minutes 8 --json runs/decoding.json
    python benchmarks/decoding.py --json runs/decoding.json --only nothing      # print the tables of what is there

A call starts with the scene's pictures in memory and ends with token ids: preprocessing, vision, prefill and decoding
of every model a method needs are inside, and all methods and baselines share one preprocessing. Methods take turns
prompt by prompt, after three warm-ups. Token ids of every call are compared with `generate`'s; where they part, the
position and the gap of the two best logits are told. `events blanked` is the same method with a drafter shown white
pictures, so only the difference to it is what the events contribute (told with an interval of its own, both resampled
together); `plain loop` is this library's own greedy decoding, so only the difference to it is what speculation
contributes. Every scene of the test split is asked one question before any is asked two; intervals are of whole
sequences resampled. Methods that run two models at once use both cores; so `generate`
is shown with two threads as well, and every method of that part is compared with it. "on paper" is computed, everything
else is measured.

Parts (`--only`) have the first two methods in common and fit ten minutes each; a part that was stopped goes on with
the next prompts when it is run again on the same `--json` file. Exits non-zero when a lossless method gives other
tokens where the logits do not tie.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egptlib._paths import write_json
from egptlib.adapters import load_adapter, load_lora
from egptlib.decoding import (
    AdapterDrafter,
    AdaptiveLength,
    CascadeDrafter,
    CosineThreshold,
    Deferral,
    Drafter,
    DrafterProcess,
    DrafterThread,
    FixedLength,
    Fuzzy,
    HeadDrafter,
    NgramDrafter,
    Round,
    Rule,
    SequenceDrafter,
    TopK,
    Typical,
    as_drafter,
    first_divergence,
    hidden_prefill_generate,
    pipelined_generate,
    shared_vocabulary,
    speculative_generate,
)
from egptlib.measuring import (
    BlankedDrafter,
    Method,
    MethodRuns,
    compare_prefill_hiding,
    compare_scenes,
    compare_speed,
    contention,
    measure_costs,
    run_methods,
    transformers_generate,
)
from egptlib.models import Pair, describe_pair, load_pair
from egptlib.scenes import Scene, SceneFolder, open_scenes
from egptlib.traces import trace_from_runs

BASELINE, PLAIN = "generate (transformers)", "plain loop"
BLANKED = ", events blanked"
BOTH_CORES = "generate (transformers), two threads"
TIE = 1e-3  # of logits: what float32 rounding of two ways to compute them can turn around
QUESTIONS = 10  # of every scene of streets
Prompt = tuple[Scene, str]


def with_threads(method: Method, count: int) -> Method:
    """The same, with so many torch threads: a method that leaves a core idle is also shown with it."""

    def call(scene: Scene, question: str) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return method(scene, question)
        finally:
            torch.set_num_threads(before)

    return call


class Bench:
    """The pair, and what every part needs of it."""

    def __init__(self, pair: Pair, processes: ExitStack, tokens: int, adapters: Path | None, layers: list[int]):
        self.pair, self.processes, self.tokens, self.adapters, self.layers = pair, processes, tokens, adapters, layers
        self.target, self.drafter = pair.target, as_drafter(pair.drafter, pair.target)
        self.process = self.beside(self.drafter)
        self.rules: dict[str, Rule] = {}

    def speculative(self, drafter: Drafter, gamma: Any, rule: Rule | None = None) -> Method:
        return partial(speculative_generate, self.target, drafter, gamma=gamma, max_new_tokens=self.tokens, rule=rule)

    def beside(self, drafter: Drafter) -> DrafterProcess:
        return self.processes.enter_context(DrafterProcess(drafter, self.target.eos_token_ids))

    def hidden(self, gamma: int, process: DrafterProcess | None = None, then: Drafter | None = None) -> Method:
        options: dict[str, Any] = {"gamma": gamma, "max_new_tokens": self.tokens, "then": then}
        return partial(hidden_prefill_generate, self.target, process or self.process, **options)

    def pipelined(self, gamma: int, process: DrafterProcess | None = None, **options: Any) -> Method:
        options |= {"gamma": gamma, "max_new_tokens": self.tokens}
        return partial(pipelined_generate, self.target, process or self.process, **options)

    def common(self) -> dict[str, Method]:
        def plain(scene: Scene, question: str) -> list[int]:
            return self.target.decode_greedy(self.target.start(scene, question), self.tokens)[0].tolist()

        return {BASELINE: transformers_generate(self.target, self.tokens), PLAIN: plain}

    def drafting(self, prompts: list[Prompt]) -> dict[str, Method]:
        """EventGPT as the drafter, in sequence and beside the target, and its control."""
        costs = measure_costs(self.pair, *prompts[0], gammas=range(13), repeats=5, measure_contention=False)
        table = {BOTH_CORES: with_threads(self.common()[BASELINE], 2)}
        table["plain loop, two threads"] = with_threads(self.common()[PLAIN], 2)
        for gamma in (5, 8):
            table[f"EventGPT, gamma {gamma}, two threads"] = with_threads(self.speculative(self.drafter, gamma), 2)
        table["empty drafter"] = self.speculative(SequenceDrafter(), 5)
        table |= {f"EventGPT, gamma {gamma}": self.speculative(self.drafter, gamma) for gamma in (2, 3, 5, 8)}
        table["EventGPT, gamma 8, stops below 0.4"] = self.speculative(self.drafter, FixedLength(8, 0.4))
        table["EventGPT, skip rule"] = self.speculative(self.drafter, AdaptiveLength(costs, 12, min_confidence=0.4))
        table["EventGPT, gamma 5, events blanked"] = self.speculative(BlankedDrafter(self.drafter), 5)
        table |= {f"prefill hidden, gamma {gamma}": self.hidden(gamma) for gamma in (5, 8)}
        table |= {f"pipelined, gamma {gamma}": self.pipelined(gamma) for gamma in (3, 4)}
        table["pipelined, gamma 8, stops below 0.4"] = self.pipelined(8, min_confidence=0.4)
        return table

    def best(self, prompts: list[Prompt]) -> dict[str, Method]:
        """EventGPT in the target's prefill, then a trained head in its loop; every stage with its control."""
        if self.adapters is None:
            raise SystemExit("--only best: expected --adapters FOLDER, with B1 and E3 in it")
        b1, e3 = (self._from_folder(self.adapters / level) for level in ("B1", "E3"))
        blanked, ngrams = self.beside(BlankedDrafter(self.drafter)), NgramDrafter(self.target.tokenizer)
        own = shared_vocabulary(self.pair.drafter, self.target)
        third = self.beside(CascadeDrafter(self.pair.drafter, ngrams, own, gamma=3))
        return {
            BOTH_CORES: with_threads(self.common()[BASELINE], 2),
            "B1, gamma 8": self.speculative(b1, 8),
            "pipelined, gamma 3": self.pipelined(3),
            "pipelined, gamma 3, events blanked": self.pipelined(3, blanked),
            "pipelined, gamma 3, n-grams > EventGPT": self.pipelined(3, third),
            "prefill hidden, then B1, gamma 8": self.hidden(8, then=b1),
            "prefill hidden, then B1, gamma 8, events blanked": self.hidden(8, blanked, b1),
            "prefill hidden, then E3, gamma 8": self.hidden(8, then=e3),
        }

    def baselines(self, prompts: list[Prompt]) -> dict[str, Method]:
        """What needs no second model, and cascades."""
        own, ngrams = shared_vocabulary(self.pair.drafter, self.target), NgramDrafter(self.target.tokenizer)
        table: dict[str, Method] = {
            f"prompt look-up {n} (transformers)": transformers_generate(
                self.target, self.tokens, prompt_lookup_num_tokens=n
            )
            for n in (3, 5)
        }
        table |= {f"n-grams, gamma {gamma}": self.speculative(ngrams, gamma) for gamma in (3, 5)}
        for name, rule in (("lossless", None), ("top-3", TopK(3))):
            cascade = CascadeDrafter(self.pair.drafter, ngrams, own, gamma=3, rule=rule)
            table[f"cascade n-grams > EventGPT ({name} inside), gamma 5"] = self.speculative(cascade, 5)
        table["EventGPT, gamma 5"] = self.speculative(self.drafter, 5)
        return table

    def trained(self, prompts: list[Prompt]) -> dict[str, Method]:
        """Adapters and heads from a folder with one folder a level."""
        if self.adapters is None:
            raise SystemExit("--only adapters: expected --adapters FOLDER, with one folder a level")
        table = {"EventGPT, gamma 5": self.speculative(self.drafter, 5)}
        for folder in sorted(p.parent for p in self.adapters.glob("*/adapter.json")):
            if (folder / "row.json").is_file() and folder.name != "L4-looks-ahead":
                table[f"{folder.name}, gamma 5"] = self.speculative(self._from_folder(folder), 5)
        return table

    def _from_folder(self, folder: Path) -> Drafter:
        if json.loads((folder / "adapter.json").read_text())["settings"]["level"] == "L6":
            return as_drafter(load_lora(folder, load_pair(self.pair.name)).merge(), self.target)
        adapter: Any = load_adapter(folder)
        vocabulary = shared_vocabulary(self.pair.drafter, self.target)
        if not adapter.runs_ahead:
            return AdapterDrafter(self.pair.drafter, adapter, self.target, vocabulary)
        layers = self.layers if "target_layers" in adapter.inputs else ()
        return HeadDrafter(self.pair.drafter, adapter, self.target, vocabulary, layers)

    def lossy(self, prompts: list[Prompt]) -> dict[str, Method]:
        """Rules that change answers, at gamma 5; the cosine rule on the states of an adapter."""
        table = {"EventGPT, gamma 5": self.speculative(self.drafter, 5)}
        rules: list[Rule] = [TopK(2), TopK(3), Typical(), Fuzzy(0.2), Deferral(0.1)]
        self.rules = {f"EventGPT, {rule.name}": rule for rule in rules}
        table |= {name: self.speculative(self.drafter, 5, rule) for name, rule in self.rules.items()}
        if self.adapters is not None and (self.adapters / "L1" / "adapter.json").is_file():
            aligned = self._from_folder(self.adapters / "L1")
            table["L1, gamma 5"] = self.speculative(aligned, 5)
            for rule in (CosineThreshold(0.95), CosineThreshold(0.9), CosineThreshold(0.8)):
                self.rules[f"L1, {rule.name}"] = rule
                table[f"L1, {rule.name}"] = self.speculative(aligned, 5, rule)
        return table


PARTS: dict[str, Callable[[Bench, list[Prompt]], dict[str, Method]]] = {
    "drafting": Bench.drafting,
    "best": Bench.best,
    "baselines": Bench.baselines,
    "adapters": Bench.trained,
    "lossy": Bench.lossy,
}


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


def show(part: str, table: dict[str, dict[str, Any]], prompts: int) -> bool:
    """Print a part's table; whether every lossless method was lossless but for ties."""
    sound = True
    print(f"\n{part}, {prompts} prompts")
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
    parser.add_argument("--source-layers", type=int, nargs="+", default=[2, 5, 8], help="target layers E3 was fed with")
    parser.add_argument("--json", type=Path, help="keep all runs here (and go on from it), traces beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair, scenes = load_pair("mini"), open_scenes("streets", split="test", event_views=5)
    order = np.random.default_rng(0).permutation(len(scenes))[: arguments.scenes].tolist()
    # One question of each scene, then the next one of each: many streets count for more than many questions.
    chosen = [
        (place, (nth + turn) % QUESTIONS) for turn in range(arguments.questions) for nth, place in enumerate(order)
    ]
    kept: dict[str, Any] = {"parts": {}, "hiding": {}, "tables": {}}
    if arguments.json is not None and arguments.json.is_file():
        kept = json.loads(arguments.json.read_text())
    sound = True
    with ExitStack() as processes:
        bench = Bench(pair, processes, arguments.tokens, arguments.adapters, arguments.source_layers)
        for name in PARTS:
            if name in arguments.only:
                run_part(bench, name, scenes, chosen, arguments, kept["parts"].setdefault(name, []))
                if arguments.json is not None:
                    write_json(arguments.json, kept)
        if "hiding" in arguments.only:
            kept["hiding"] = hiding(bench, [(scenes[i], scenes[i].questions[n]) for i, n in chosen[:12]])
    truths = {scenes.ids[place]: slots.get("slots") for place, slots in enumerate(scenes.metadata())}
    for name, rows in kept["parts"].items():
        if rows:
            kept["tables"][name] = table_of(rows, truths, pair)
            sound &= show(name, kept["tables"][name], len(rows))
    if arguments.json is not None:
        write_json(arguments.json, kept)
        print(f"-> {arguments.json}")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
