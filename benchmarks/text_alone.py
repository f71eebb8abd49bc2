"""A language model that nobody here trained, without pictures: this library's loop beside transformers' own.

    egptlib make-pair midi                 # once: SmolLM2-135M-Instruct
    python -m benchmarks.text_alone

Greedy calls take turns prompt by prompt and are compared token by token with `generate`; sampled ones (temperature 1)
say other things by chance, so seconds a token are compared. Drafts come from n-grams of prompt and answer, or from the
model's own first six layers, which have not been trained to end there. Exits non-zero where a greedy answer differs
and the two best logits do not tie.
"""

import argparse
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from egptlib._paths import data_root
from egptlib.decoding import NgramDrafter, Sampling, first_divergence, speculative_generate
from egptlib.measuring import compare_speed, run_methods, transformers_baselines, transformers_generate
from egptlib.models import LanguageModel

BASELINE = "generate (transformers)"
TIE = 1e-3  # of logits: what float32 rounding of two ways to compute them can turn around
TEXT = (
    "The drafter reads the events and the target reads the frames. The drafter writes five tokens, and the target "
    "reads all five tokens in one pass. Where the target would have written another token, the rest is thrown away."
)
PROMPTS = (
    "What does an event camera measure?",
    "Write a short story about a red car that drives through a city at night.",
    f"Repeat this text word by word: {TEXT}",
    f"Correct the spelling, and change nothing else: {TEXT}",
    "List five things that can stand beside a road, one a line.",
    "Write a Python function that returns the largest number of a list.",
)


def first_layers(model: LanguageModel, count: int) -> LanguageModel:
    """A model of a language model's first layers, its last norm and its head; weights are shared."""
    module: Any = model.module
    cut = deepcopy(module, {id(weight): weight for weight in module.parameters()})
    cut.model.layers = nn.ModuleList(list(cut.model.layers)[:count])
    cut.config.num_hidden_layers = count
    return LanguageModel(cut, model.tokenizer, f"first {count} layers")


def greedy(target: LanguageModel, cut: LanguageModel, tokens: int) -> bool:
    """Print the table of greedy methods; whether every answer is `generate`'s but for ties."""
    prompts = [(None, prompt) for prompt in PROMPTS]
    ngrams = NgramDrafter(target.tokenizer)

    def plain(scene: Any, question: str) -> list[int]:
        return target.decode_greedy(target.start(scene, question), tokens)[0].tolist()

    ours = partial(speculative_generate, target, gamma=5, max_new_tokens=tokens)
    offered, refused = transformers_baselines(target, prompts[:1], tokens, 5, [cut])
    table = {BASELINE: transformers_generate(target, tokens, "ids"), "plain loop": plain} | offered
    table["n-grams, gamma 5"] = lambda scene, question: ours(ngrams, scene, question)
    table[f"{cut.name}, gamma 5"] = lambda scene, question: ours(cut, scene, question)
    runs, sound = run_methods(table, prompts, repeats=1, warm_ups=1), True
    for name, message in refused.items():
        print(f"refused by transformers, {name}: {message}")
    for name, run in runs.items():
        speed = compare_speed(run, runs[BASELINE])
        line = f"{name:<40} {speed.ratio_of_sums:.2f}x [{speed.low:.2f}, {speed.high:.2f}]"
        passes = sum(len(generation.rounds) for generation in run.generations)
        line += f"  identical {speed.identical:.1%}  {1e3 * speed.seconds / speed.tokens:.1f} ms a token"
        print(line + (f"  tokens a pass {speed.tokens / passes:.2f}" if passes else ""))
        for (scene, question), same, said, own in zip(
            prompts, run.identical, run.token_ids, runs[BASELINE].token_ids, strict=True
        ):
            if not same and (parted := first_divergence(target, scene, question, said, own)):
                print(f"    parts at {parted.position}, gap of logits {parted.gap:.2e}")
                sound &= parted.gap < TIE
    return sound


def sampled(target: LanguageModel, cut: LanguageModel, tokens: int) -> None:
    """Print seconds a token of sampling at temperature 1."""

    def theirs(question: str, **options: Any) -> int:
        given = target.generate_inputs(target.encode(None, question), "ids")
        options |= {"do_sample": True, "temperature": 1.0, "top_k": 0, "max_new_tokens": tokens}
        return target.module.generate(**given, **options).shape[1] - given["input_ids"].shape[1]

    def ours(question: str, drafter: Any) -> int:
        options: Any = {"sampling": Sampling(temperature=1.0), "generator": torch.Generator().manual_seed(0)}
        made = speculative_generate(target, drafter, None, question, gamma=5, max_new_tokens=tokens, **options)
        return len(made.token_ids)

    table: dict[str, Callable[[str], int]] = {
        BASELINE: theirs,
        f"generate, assistant {cut.name}": partial(theirs, assistant_model=cut.module),
        "n-grams, gamma 5": partial(ours, drafter=NgramDrafter(target.tokenizer)),
        f"{cut.name}, gamma 5": partial(ours, drafter=cut),
    }
    seconds, written = dict.fromkeys(table, 0.0), dict.fromkeys(table, 0)
    for question in PROMPTS:
        for name, method in table.items():
            torch.manual_seed(0)
            start = time.perf_counter()
            written[name] += method(question)
            seconds[name] += time.perf_counter() - start
    pace = {name: seconds[name] / written[name] for name in table}
    for name, each in pace.items():
        print(f"sampled, {name:<40} {pace[BASELINE] / each:.2f}x  {1e3 * each:.1f} ms a token, {written[name]} tokens")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=data_root() / "midi" / "base", help="a language model's folder")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    target = LanguageModel.from_pretrained(arguments.model, dtype=torch.float32)
    cut = first_layers(target, 6)
    sound = greedy(target, cut, arguments.tokens)
    sampled(target, cut, arguments.tokens)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
