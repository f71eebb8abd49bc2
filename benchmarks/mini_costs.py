"""Cost of one decode step of drafter and target of the mini pair, and our greedy loop beside transformers' `generate`.

    python benchmarks/mini_costs.py [--tokens 40] [--repeats 5]

Medians over interleaved repeats in one process. Exits non-zero when the two loops give different tokens or a target
step costs less than four drafter steps.
"""

import argparse
import statistics
import sys
import time

import numpy as np
import torch
from transformers import GenerationMixin

from egptlib.models import Model, Prompt, load_pair
from egptlib.scenes import QUESTIONS, Scene

REQUIRED = 4.0


def any_scene() -> Scene:
    """Noise: what a step costs does not depend on what is seen."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (13, 480, 640, 3), dtype=np.uint8)
    return Scene("noise", "noise", list(pictures[:5]), pictures[5:], QUESTIONS, None, "last", "even", tuple(range(8)))


def ours(model: Model, embeds: torch.Tensor, tokens: int) -> tuple[list[int], float]:
    """Token ids and seconds per decode step, prefill left out."""
    state = model.prefill(embeds)
    start = time.perf_counter()
    ids = []
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(state.logits.argmax()))
            model.step(torch.tensor([[ids[-1]]]), state)
    return ids, (time.perf_counter() - start) / tokens


def theirs(model: Model, embeds: torch.Tensor, tokens: int) -> tuple[list[int], float]:
    """The same by transformers' `generate`; a call for one token is taken off, which leaves the prefill out."""
    seconds = []
    for count in (1, tokens):
        start = time.perf_counter()
        with torch.no_grad():
            ids = GenerationMixin.generate(
                model.module,
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
                do_sample=False,
                max_new_tokens=count,
                min_new_tokens=count,
            )
        seconds.append(time.perf_counter() - start)
    return ids[0].tolist(), (seconds[1] - seconds[0]) / (tokens - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pair, scene = load_pair("mini"), any_scene()
    same, medians = True, {}
    for name, model in (("drafter", pair.drafter), ("target", pair.target)):
        with torch.no_grad():
            embeds = Prompt.of(model.embed(model.encode(scene, QUESTIONS[0]))).embeds
        times: dict[str, list[float]] = {"ours": [], "generate": []}
        for repeat in range(arguments.repeats + 1):
            for label, loop in (("ours", ours), ("generate", theirs)):
                ids, seconds = loop(model, embeds, arguments.tokens)
                if label == "ours":
                    expected = ids
                until = next((i for i, token in enumerate(expected) if token in model.eos_token_ids), len(expected))
                same &= ids[:until] == expected[:until]
                if repeat:  # the first one warms up
                    times[label].append(seconds)
        medians[name] = {label: 1000 * statistics.median(values) for label, values in times.items()}
        ratio = medians[name]["generate"] / medians[name]["ours"]
        print(
            f"{name}: {medians[name]['ours']:.2f} ms a step, generate {medians[name]['generate']:.2f} ms, "
            f"ratio {ratio:.2f}; the same tokens: {same}"
        )
    cost = medians["target"]["ours"] / medians["drafter"]["ours"]
    print(f"a target step costs {cost:.2f} drafter steps (c = {1 / cost:.3f}); at least {REQUIRED:g} required")
    return 0 if same and cost >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
