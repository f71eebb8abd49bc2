"""What the skip rule saves: drafters that help, and one that never does, with and without it, against the plain loop.

    python benchmarks/skip_rule.py [--scenes 14] [--tokens 50 8]

Three drafters on the same prompts, in turn: EventGPT, the same with its events blanked, and EventGPT's time with random
words in its place. For each: gamma 5; gamma up to 12 ended by the drafter's doubt; gamma from the measured cost curve;
and that with the skip rule, which also ends drafting where it does not pay. Exits non-zero when an answer is not the
target's own.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from egptlib.decoding import (
    AdaptiveLength,
    Draft,
    Drafter,
    FixedLength,
    Recorder,
    Sampler,
    Stop,
    as_drafter,
    speculative_generate,
)
from egptlib.measuring import (
    BlankedDrafter,
    Method,
    compare_speed,
    plain_loop,
    report_costs,
    run_methods,
    transformers_generate,
)
from egptlib.models import load_pair
from egptlib.scenes import open_scenes

PLAIN, GENERATE = "plain loop", "generate (transformers)"


class NeverSkips(AdaptiveLength):
    """gamma from the cost curve, but always at least 1."""

    def pays(self, max_new_tokens: int) -> bool:
        return True

    def count(self) -> int:
        return max(1, super().count())


class RandomWords:
    """Takes a drafter's time and says anything."""

    def __init__(self, drafter: Drafter, vocabulary: int):
        self.drafter, self.name, self.device, self.vocabulary = drafter, "random words", drafter.device, vocabulary
        self.chance = np.random.default_rng(0)

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        self.drafter.start(scene, question, recorder)

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        draft = self.drafter.propose(answer, count, sampler, stop)
        return Draft(self.chance.integers(3, self.vocabulary, len(draft.tokens)).tolist(), draft.confidence)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=14, help="of the test split, in a mixed order")
    parser.add_argument("--tokens", type=int, nargs="+", default=[50, 8], help="limits of an answer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pair, scenes = load_pair("mini"), open_scenes("streets", split="test", event_views=5)
    target, own = pair.target, as_drafter(pair.drafter, pair.target)
    chosen = [scenes[int(i)] for i in np.random.default_rng(0).permutation(len(scenes))[: arguments.scenes]]
    prompts = [(scene, question) for scene in chosen for question in scene.questions[::2]]
    costs = report_costs(pair, *prompts[0], gammas=range(13), repeats=9, measure_contention=False).costs
    drafters = {
        "EventGPT": own,
        "events blanked": BlankedDrafter(own),
        "random words": RandomWords(own, len(pair.vocabulary)),
    }
    sound = True
    for tokens in arguments.tokens:
        speculate = partial(speculative_generate, target, max_new_tokens=tokens)
        methods: dict[str, Method] = {
            PLAIN: plain_loop(target, tokens),
            GENERATE: transformers_generate(target, tokens),
        }
        for name, drafter in drafters.items():
            for how, length in (
                ("gamma 5", 5),
                ("up to 12, stops below 0.4", FixedLength(12, 0.4)),
                ("cost curve", NeverSkips(costs, 12, min_confidence=0.4)),
                ("cost curve and skip rule", AdaptiveLength(costs, 12, min_confidence=0.4)),
            ):
                methods[f"{name}, {how}"] = partial(speculate, drafter, gamma=length)
        runs = run_methods(methods, prompts, repeats=1, warm_ups=2)
        print(f"{len(prompts)} prompts, at most {tokens} tokens")
        for name, run in runs.items():
            plain, theirs = compare_speed(run, runs[PLAIN]), compare_speed(run, runs[GENERATE])
            sound &= plain.identical == 1
            print(
                f"  {name:<42} {plain.ratio_of_sums:.2f}x the plain loop [{plain.low:.2f}, {plain.high:.2f}], slower "
                f"on {plain.slower:.1%}; {theirs.ratio_of_sums:.2f}x generate, slower on {theirs.slower:.1%}; "
                f"identical {plain.identical:.0%}",
                flush=True,
            )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
