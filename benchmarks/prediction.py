"""Wall-clock predicted from costs and recorded agreement beside wall-clock measured, on prompts not used for fitting.

    python benchmarks/prediction.py [--scenes 24] [--questions 2] [--repeats 3] [--gammas 2 3 5 8] [--json FILE]
    python benchmarks/prediction.py --quick        # 8 scenes, one question, one repeat

Every other scene is for fitting: from runs of each method there, at the smallest and the largest gamma, come the costs
(`fit_costs`) and how many tokens are drafted before the target is ready. Runs on both halves take turns, so that the
machine is in one mood. A configuration on the other scenes is then predicted by `CostModel` from

- own agreement: where the drafter, read along the target's plain answers, agrees with them, replayed;
- borrowed agreement: the lengths of the plain answers alone, with agreement drawn from the fitting prompts.

Measured are whole calls, pictures in memory to token ids, configurations in mixed order prompt by prompt, medians of
repeats. Exits non-zero when a configuration gives other tokens than plain decoding.
"""

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from egptlib._paths import write_json
from egptlib.decoding import DrafterProcess, Generation, as_drafter, hidden_prefill_generate, speculative_generate
from egptlib.measuring import Agreement, record_agreement
from egptlib.metrics import CostModel, Costs, fit_costs, replay
from egptlib.models import Pair, describe_pair, load_pair
from egptlib.scenes import Scene, open_scenes
from egptlib.traces import Trace, trace_from_generations

Prompt = tuple[Scene, str]
METHODS = ("drafts after prefill", "free drafts, in sequence", "free drafts, with overlap")
DRAWS = 20  # fitting answers that each answer borrows from


@dataclass(frozen=True)
class Configuration:
    """A method at one gamma; gamma 0 is plain decoding."""

    method: str
    gamma: int

    @property
    def overlap(self) -> bool:
        return self.method == METHODS[2]

    def __str__(self) -> str:
        return f"{self.method}, gamma {self.gamma}" if self.gamma else "plain decoding"


PLAIN = Configuration(METHODS[0], 0)


@dataclass
class Clock:
    """What runs of one configuration took, one entry a prompt: the run with the median time."""

    seconds: list[float] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)  # none of plain decoding


class Runner:
    """Decodes as a configuration says, and keeps the time."""

    def __init__(self, pair: Pair, process: DrafterProcess, tokens: int, free: int):
        self.pair, self.process, self.tokens, self.free = pair, process, tokens, free
        self.drafter = as_drafter(pair.drafter, pair.target)
        self.random = random.Random(0)
        self.same = True

    def __call__(self, which: Configuration, scene: Scene, question: str) -> Generation | list[int]:
        target = self.pair.target
        if not which.gamma:
            return target.decode_greedy(target.start(scene, question), self.tokens)[0].tolist()
        if which.method == METHODS[0]:
            return speculative_generate(
                target, self.drafter, scene, question, gamma=which.gamma, max_new_tokens=self.tokens
            )
        return hidden_prefill_generate(
            target,
            self.process,
            scene,
            question,
            overlap=which.overlap,
            max_free_tokens=self.free,
            gamma=which.gamma,
            max_new_tokens=self.tokens,
        )

    def time(self, clocks: dict[Configuration, Clock], prompt: Prompt, answer: list[int], repeats: int) -> None:
        """Answer one prompt in all configurations, in mixed order; the answers are compared with `answer`."""
        order = list(clocks)
        trials: dict[Configuration, list[tuple[float, int]]] = {which: [] for which in order}
        found: list[Generation | list[int]] = []
        for _ in range(repeats):
            self.random.shuffle(order)
            for which in order:
                start = time.perf_counter()
                found.append(self(which, *prompt))
                trials[which].append((time.perf_counter() - start, len(found) - 1))
                ids = found[-1].token_ids.tolist() if isinstance(found[-1], Generation) else found[-1]
                self.same &= ids == answer
        for which, runs in trials.items():
            seconds, place = sorted(runs)[(len(runs) - 1) // 2]
            clocks[which].seconds.append(seconds)
            if isinstance(chosen := found[place], Generation):
                clocks[which].generations.append(chosen)


def borrow(known: Agreement, lengths: np.ndarray, seed: int = 0) -> Agreement:
    """Agreement for answers of given lengths: `DRAWS` fitting answers for each, where one is too short the next on."""
    rng = np.random.default_rng(seed)
    repeated = np.repeat(lengths, DRAWS)
    tables = {name: np.zeros((len(repeated), int(lengths.max())), dtype=bool) for name in ("match", "ends")}
    own = []
    for row, length in enumerate(repeated):
        parts: list[int] = []
        while sum(known.lengths[parts]) < length:
            parts.append(int(rng.integers(len(known.lengths))))
        own.append(int(known.own_lengths[parts[0]]))
        for name, table in tables.items():
            joined = np.concatenate([getattr(known, name)[i, : known.lengths[i]] for i in parts])
            table[row, :length] = joined[:length]
    answers = [[0] * length for length in repeated]
    return Agreement(answers, tables["match"], tables["ends"], np.zeros(tables["match"].shape), np.array(own))


def first(agreement: Agreement, count: int) -> Agreement:
    """The first answers of an agreement."""
    width = int(agreement.lengths[:count].max())
    match, ends, confidence = (
        table[:count, :width] for table in (agreement.match, agreement.ends, agreement.confidence)
    )
    return Agreement(agreement.token_ids[:count], match, ends, confidence, agreement.own_lengths[:count])


def predict(
    costs: Costs, of: Agreement, which: Configuration, tokens: int, free: Counter[int]
) -> tuple[float, float, float]:
    """Seconds of all these answers together, of plain decoding of them, and target passes.

    Args:
        free: how often which number of tokens was drafted ahead; the prediction is the mean over it.
    """
    if not which.gamma:
        plain = float(CostModel(costs).plain_seconds(of.lengths).sum())
        return plain, plain, float((of.lengths - 1).sum())
    total = np.zeros(3)
    for count, times in free.items():
        ahead = None if which.method == METHODS[0] else np.minimum(count, of.own_lengths)
        found = replay(of.match, of.lengths, [which.gamma], limit=tokens, free=ahead, stops=of.ends)
        prediction = CostModel(costs).predict(found, of.lengths, which.gamma, overlap=which.overlap)
        total += times * np.array([prediction.seconds.sum(), prediction.baseline.sum(), found.passes.sum()])
    seconds, plain, passes = total / sum(free.values())
    return float(seconds), float(plain), float(passes)


def fit(
    clocks: dict[Configuration, Clock], lengths: np.ndarray, free: int, longest: int
) -> dict[str, tuple[Costs, Counter[int]]]:
    """Costs of each method, and how many free tokens there were."""
    start = Costs(1.0, 1.0)  # every figure is replaced by a fitted one
    fitted: dict[str, tuple[Costs, Counter[int]]] = {}
    for method in METHODS:
        clock = Clock()
        for which, runs in clocks.items():
            if which.method == method and which.gamma:
                clock.seconds += runs.seconds
                clock.generations += runs.generations
        base = fitted[METHODS[1]][0] if method == METHODS[2] else start
        costs = fit_costs(clock.generations, clock.seconds, base)
        if method == METHODS[0]:
            left = sum(clocks[PLAIN].seconds) - len(lengths) * costs.target_prefill
            start = replace(start, target_step=left / float((lengths - 1).sum()))
            costs = replace(costs, target_step=start.target_step)
        ahead = [int(e.info.get("free", 0)) for g in clock.generations for e in g.events if e.lane == "target"]
        counts = Counter(count for count in ahead if count)
        counts[0] = len(clock.generations) - sum(counts.values())
        if method == METHODS[1]:  # only its own end keeps the drafter from drafting as many as it may
            counts = Counter({free: 1})
        fitted[method] = (_reaching(costs, longest), +counts)
    return fitted


def _reaching(costs: Costs, longest: int) -> Costs:
    """Costs that know a pass over the longest draft: the last slope goes on where it did not come up."""
    sizes = sorted(costs.verify)
    if sizes[-1] >= longest:
        return costs
    a, b = sizes[-2:]
    slope = (costs.verify[b] - costs.verify[a]) / (b - a)
    return replace(costs, verify=costs.verify | {longest: costs.verify[b] + slope * (longest - b)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", default="mini", help="mini, midi, or a pair.toml")
    parser.add_argument("--scenes", type=int, default=24, help="taken evenly from the test split")
    parser.add_argument("--questions", type=int, default=2, help="of each scene")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--free", type=int, default=12, help="most tokens drafted before the target is ready")
    parser.add_argument("--gammas", type=int, nargs="+", default=[2, 3, 5, 8])
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the target's process")
    parser.add_argument("--minutes", type=float, default=7.5, help="after these no further prompt is begun")
    parser.add_argument("--quick", action="store_true", help="8 scenes, one question, one repeat")
    parser.add_argument("--json", type=Path, help="keep the table here, and the trace of all runs beside it")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.scenes, arguments.questions, arguments.repeats = 8, 1, 1
    if min(arguments.gammas) < 1 or len(set(arguments.gammas)) < 2 or arguments.scenes < 2:
        parser.error("expected two or more gammas of 1 or more, and at least two scenes")
    torch.set_num_threads(arguments.threads)
    begun = time.perf_counter()
    tokens, gammas = arguments.tokens, sorted(set(arguments.gammas))
    pair, scenes = load_pair(arguments.pair), open_scenes("streets", split="test", event_views=5)
    chosen = [scenes[i] for i in np.linspace(0, len(scenes) - 1, min(arguments.scenes, len(scenes)), dtype=int)]
    halves = [[(s, q) for s in chosen[half::2] for q in s.questions[: arguments.questions]] for half in (0, 1)]
    fitting, other = (half[: min(map(len, halves))] for half in halves)
    known, own = (record_agreement(pair.target, pair.drafter, half, tokens) for half in (fitting, other))

    configurations = [PLAIN] + [Configuration(method, gamma) for method in METHODS for gamma in gammas]
    to_fit = {c: Clock() for c in configurations if c.gamma in (0, gammas[0], gammas[-1])}
    to_test = {c: Clock() for c in configurations}
    with DrafterProcess(as_drafter(pair.drafter, pair.target), pair.target.eos_token_ids) as process:
        run = Runner(pair, process, tokens, arguments.free)
        for which in configurations:  # warm up
            run(which, *fitting[0])
        for i, (one, two) in enumerate(zip(fitting, other)):
            if time.perf_counter() - begun > 60 * arguments.minutes:
                print(f"time is up: {i} of {len(other)} prompts")
                break
            run.time(to_fit, one, known.token_ids[i], arguments.repeats)
            run.time(to_test, two, own.token_ids[i], arguments.repeats)
    done = len(to_test[PLAIN].seconds)
    known, own = first(known, done), first(own, done)
    fitted = fit(to_fit, known.lengths, arguments.free, max(*gammas, arguments.free))
    rows = report(fitted, to_test, own, borrow(known, own.lengths), tokens)
    summary: dict[str, float] = {}
    print(f"{len(rows) - 1} configurations, {done} prompts for fitting, {done} others, at most {tokens} tokens")
    for name, text in (("error", "own agreement"), ("error_borrowed", "borrowed agreement")):
        errors = [abs(row[name]) for row in rows.values() if row["gamma"]]
        summary |= {f"median_{name}": statistics.median(errors), f"worst_{name}": max(errors)}
        print(f"{text}: median error {statistics.median(errors):.1%}, worst {max(errors):.1%} (to reach: 5 %, 12 %)")
    print(f"{time.perf_counter() - begun:.0f} s")
    if arguments.json is not None:
        write_json(arguments.json, {"rows": rows, "prompts": done, **summary})
        about = describe_pair(pair) | {"max_new_tokens": tokens}
        parts = [
            trace_from_generations(clock.generations, prompts[:done], str(which), clock.seconds, **about)
            for clocks, prompts in ((to_fit, fitting), (to_test, other))
            for which, clock in clocks.items()
            if clock.generations
        ]
        Trace.join(parts).save(arguments.json.with_suffix(".parquet"))
        print(f"-> {arguments.json}")
    if not run.same:
        print("some configuration gave other tokens than plain decoding")
    return 0 if run.same else 1


def report(
    fitted: dict[str, tuple[Costs, Counter[int]]],
    clocks: dict[Configuration, Clock],
    own: Agreement,
    borrowed: Agreement,
    tokens: int,
) -> dict[str, dict[str, float]]:
    """Print the table; return its rows by configuration."""
    rows: dict[str, dict[str, float]] = {}
    print(f"{'':<36} measured s  predicted s   error  borrowed  passes  replayed   speedup measured / predicted")
    took_plain = sum(clocks[PLAIN].seconds)
    for which, clock in clocks.items():
        costs, free = fitted[which.method]
        took = sum(clock.seconds)
        seconds, plain, passes = predict(costs, own, which, tokens, free)
        guessed = predict(costs, borrowed, which, tokens, free)[0] / DRAWS
        row = {
            "gamma": which.gamma,
            "measured_seconds": took,
            "predicted_seconds": seconds,
            "error": seconds / took - 1,
            "error_borrowed": guessed / took - 1,
            "passes_measured": sum(len(g.rounds) for g in clock.generations) if which.gamma else passes,
            "passes_replayed": passes,
            "speedup_measured": took_plain / took,
            "speedup_predicted": plain / seconds,
        }
        rows[str(which)] = row
        tag = "measured (overlapped)" if which.overlap else "measured (sequential)"
        print(
            f"{which!s:<36} {took:10.3f}  {seconds:11.3f}  {row['error']:+6.1%}  {row['error_borrowed']:+8.1%}"
            f"  {row['passes_measured']:6.0f}  {passes:8.0f}"
            f"   {row['speedup_measured']:.2f}x [{tag}] / {row['speedup_predicted']:.2f}x [estimated]"
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
