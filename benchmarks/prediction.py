"""Wall-clock predicted from measured costs beside wall-clock measured, on prompts that were not used for fitting.

    python benchmarks/prediction.py [--scenes 16] [--questions 4] [--repeats 3] [--gammas 2 3 5 8] [--json FILE]
    python benchmarks/prediction.py --quick        # 4 scenes, 2 questions, one repeat

Every other scene is for fitting. From those come: costs (`measure_costs`, on one scene), where the drafter agrees with
the target's answer, and the host's share of a round, one number a method, from runs at one gamma. A configuration on
the other scenes is then predicted by `CostModel`; of those it is told the lengths of the plain answers and nothing
else: agreement is borrowed from fitting answers. "own agreement" uses theirs, so what it misses is the costs' fault.

Measured are whole calls, pictures in memory to token ids, configurations in turn prompt by prompt, medians of repeats.
Exits non-zero when a configuration gives other tokens than plain decoding.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from egptlib._paths import write_json
from egptlib.decoding import (
    DrafterProcess,
    ModelDrafter,
    as_drafter,
    hidden_prefill_generate,
    measure_costs,
    speculative_generate,
)
from egptlib.metrics import CostModel, Costs, Prediction, replay
from egptlib.models import Pair, load_pair
from egptlib.scenes import Scene, open_scenes

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


@dataclass(frozen=True)
class Agreement:
    """Answers of the target and what the drafter would have said at each position, [sample, position]."""

    match: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray


class Runner:
    """Decodes as a configuration says."""

    def __init__(self, pair: Pair, process: DrafterProcess, tokens: int, free: int):
        self.pair, self.process, self.tokens, self.free = pair, process, tokens, free
        self.drafter = as_drafter(pair.drafter, pair.target)

    def __call__(self, which: Configuration, scene: Scene, question: str) -> list[int]:
        target = self.pair.target
        if not which.gamma:
            return target.decode_greedy(target.start(scene, question), self.tokens)[0].tolist()
        if which.method == METHODS[0]:
            run = speculative_generate(
                target, self.drafter, scene, question, gamma=which.gamma, max_new_tokens=self.tokens
            )
        else:
            run = hidden_prefill_generate(
                target,
                self.process,
                scene,
                question,
                overlap=which.overlap,
                max_free_tokens=self.free,
                gamma=which.gamma,
                max_new_tokens=self.tokens,
            )
        return run.token_ids.tolist()

    def time(
        self, which: Iterable[Configuration], prompts: list[Prompt], repeats: int
    ) -> tuple[dict[Configuration, np.ndarray], bool]:
        """Median seconds [prompt] of each, in turn and in mixed order, and whether all tokens were the same."""
        order, rng, same = list(which), random.Random(0), True
        seconds: dict[Configuration, list[float]] = {c: [] for c in order}
        for configuration in order:  # warm up
            self(configuration, *prompts[0])
        for prompt in prompts:
            trials: dict[Configuration, list[float]] = {c: [] for c in order}
            answers = []
            for _ in range(repeats):
                rng.shuffle(order)
                for configuration in order:
                    start = time.perf_counter()
                    answers.append(self(configuration, *prompt))
                    trials[configuration].append(time.perf_counter() - start)
            same &= all(answer == answers[0] for answer in answers)
            for configuration, values in trials.items():
                seconds[configuration].append(statistics.median(values))
        return {c: np.array(values) for c, values in seconds.items()}, same


@torch.no_grad()
def agreement(pair: Pair, prompts: list[Prompt], tokens: int) -> Agreement:
    """Read each answer of the target with the drafter, one pass."""
    target, drafter = pair.target, as_drafter(pair.drafter, pair.target)
    assert isinstance(drafter, ModelDrafter)
    rows = []
    for scene, question in prompts:
        answer = target.decode_greedy(target.start(scene, question), tokens)[0]
        state = pair.drafter.start(scene, question)
        ids = torch.tensor([drafter.vocabulary.to_drafter(answer[:-1].tolist())], device=pair.drafter.device)
        says = [state.logits]
        if ids.shape[1]:
            says.append(pair.drafter.step(ids, state).logits[0])
        top = drafter.vocabulary.to_target(torch.cat(says)).argmax(dim=-1).cpu()
        rows.append(((top == answer).numpy(), np.isin(top.numpy(), list(target.eos_token_ids))))
    lengths = np.array([len(match) for match, _ in rows])
    width = int(lengths.max())
    return Agreement(_padded([m for m, _ in rows], width), _padded([e for _, e in rows], width), lengths)


def borrow(known: Agreement, lengths: np.ndarray, seed: int = 0) -> Agreement:
    """Agreement for answers of given lengths: `DRAWS` fitting answers for each, where one is too short the next on."""
    rng, width = np.random.default_rng(seed), int(lengths.max())
    repeated = np.repeat(lengths, DRAWS)
    matches, ends = [], []
    for length in repeated:
        parts: list[int] = []
        while sum(known.lengths[parts]) < length:
            parts.append(int(rng.integers(len(known.lengths))))
        matches.append(np.concatenate([known.match[i, : known.lengths[i]] for i in parts])[:length])
        ends.append(np.concatenate([known.ends[i, : known.lengths[i]] for i in parts])[:length])
    return Agreement(_padded(matches, width), _padded(ends, width), repeated)


def _padded(rows: list[np.ndarray], width: int) -> np.ndarray:
    table = np.zeros((len(rows), width), dtype=bool)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def predict(costs: Costs, of: Agreement, which: Configuration, tokens: int, free: int) -> tuple[Prediction, float]:
    """Prediction for these answers, and the target passes of all of them."""
    ahead: int | None = None
    if which.overlap and which.gamma:
        window = costs.target_prefill * costs.contention_target - costs.drafter_prefill * costs.contention_drafter
        step = costs.drafter_step * costs.contention_drafter
        ahead = min(free, max(0, 1 + int(window / step))) if window > 0 else 0  # the prefill gives the first token
    elif which.method == METHODS[1] and which.gamma:
        ahead = free
    found = replay(of.match, of.lengths, [which.gamma], limit=tokens, free=ahead, stops=of.ends)
    return CostModel(costs).predict(found, of.lengths, which.gamma, overlap=which.overlap), float(found.passes.sum())


def seconds_of(prediction: Prediction, which: Configuration) -> float:
    return float((prediction.seconds if which.gamma else prediction.baseline).sum())


def with_overhead(
    costs: Costs, known: Agreement, which: Configuration, measured: np.ndarray, tokens: int, free: int
) -> Costs:
    """Costs whose host share of a round makes up for what a run on the fitting prompts took longer than predicted."""
    prediction, passes = predict(costs, known, which, tokens, free)
    return replace(costs, round_overhead=max(0.0, (measured.sum() - seconds_of(prediction, which)) / max(passes, 1.0)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=16, help="taken evenly from the test split")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--free", type=int, default=12, help="most tokens drafted before the target is ready")
    parser.add_argument("--gammas", type=int, nargs="+", default=[2, 3, 5, 8])
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the target's process")
    parser.add_argument("--quick", action="store_true", help="4 scenes, 2 questions, one repeat")
    parser.add_argument("--json", type=Path, help="keep the table here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.scenes, arguments.questions, arguments.repeats = 4, 2, 1
    if min(arguments.gammas) < 1 or arguments.scenes < 2:
        parser.error("expected gammas of 1 or more and at least two scenes")
    torch.set_num_threads(arguments.threads)
    tokens, free, gammas = arguments.tokens, arguments.free, sorted(set(arguments.gammas))
    pair, scenes = load_pair("mini"), open_scenes("streets", split="test", event_views=5)
    chosen = [scenes[i] for i in np.linspace(0, len(scenes) - 1, min(arguments.scenes, len(scenes)), dtype=int)]
    fitting, other = (
        [(scene, question) for scene in chosen[half::2] for question in scene.questions[: arguments.questions]]
        for half in (0, 1)
    )
    configurations = [PLAIN] + [Configuration(method, gamma) for method in METHODS for gamma in gammas]
    middle = gammas[len(gammas) // 2]

    known, own = agreement(pair, fitting, tokens), agreement(pair, other, tokens)
    costs = measure_costs(pair, *fitting[0], gammas=range(max(*gammas, free) + 1), repeats=3 if arguments.quick else 9)
    with DrafterProcess(as_drafter(pair.drafter, pair.target), pair.target.eos_token_ids) as process:
        run = Runner(pair, process, tokens, free)
        fits = [Configuration(method, middle) for method in METHODS]
        fitted, same_fitting = run.time(fits, fitting, arguments.repeats)
        by_method = {c.method: with_overhead(costs, known, c, fitted[c], tokens, free) for c in fits}
        measured, same = run.time(configurations, other, arguments.repeats)

    borrowed = borrow(known, own.lengths)
    rows: dict[str, dict[str, float]] = {}
    print(f"{len(fitting)} prompts for fitting, {len(other)} others; {costs.device}, {costs.precision}")
    print(f"{'':<36} measured s  predicted s   error  own agreement   speedup measured / predicted")
    plain = float(measured[PLAIN].sum())
    for which in configurations:
        took, its = float(measured[which].sum()), costs if which == PLAIN else by_method[which.method]
        prediction, _ = predict(its, borrowed, which, tokens, free)
        estimated = seconds_of(prediction, which) / DRAWS
        exact = seconds_of(predict(its, own, which, tokens, free)[0], which)
        row = {
            "measured_seconds": took,
            "predicted_seconds": estimated,
            "error": estimated / took - 1,
            "error_own_agreement": exact / took - 1,
            "speedup_measured": plain / took,
            "speedup_predicted": float(prediction.baseline.sum()) / DRAWS / estimated,
        }
        rows[str(which)] = row
        print(
            f"{which!s:<36} {took:10.3f}  {estimated:11.3f}  {row['error']:+6.1%}  {row['error_own_agreement']:+13.1%}"
            f"   {row['speedup_measured']:.2f}x / {row['speedup_predicted']:.2f}x [estimated]"
        )
    errors = [abs(row["error"]) for name, row in rows.items() if name != str(PLAIN)]
    median, worst = statistics.median(errors), max(errors)
    print(f"{len(errors)} configurations: median error {median:.1%}, worst {worst:.1%} (to reach: 5 %, 12 %)")
    if arguments.json is not None:
        write_json(arguments.json, {"rows": rows, "median": median, "worst": worst, "prompts": len(other)})
        print(f"-> {arguments.json}")
    if not (same and same_fitting):
        print("some configuration gave other tokens than plain decoding")
    return 0 if same and same_fitting else 1


if __name__ == "__main__":
    sys.exit(main())
