"""All questions about a scene, answered in every way a user might, beside this library's sessions, in the same process.

    python benchmarks/questions.py [--scenes 24] [--threads 2] [--json FILE]

A call starts with a scene's pictures in memory and ends with the token ids of its ten answers. The methods take turns
scene by scene, every model works on the same number of threads, and no session outlives its call. Three baselines are
transformers' `generate` of the target: called per question, as one does without thinking; with what a scene's prompts
have in common seen and read once and its key-value cache kept (rolled back between questions), as one does with some;
and on a left-padded batch of the ten, the pictures seen once. The rows of ours: one question after the other, all
questions together, and all questions of a sequence's scenes together (its seconds shared out equally). `without a
drafter` is the same batch decoding a token a pass, so only the difference to it is what speculation adds. Intervals:
95 %, whole sequences resampled. Exits non-zero where an answer is not the first baseline's, or a required ratio is
missed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, GenerationMixin

from egptlib._paths import write_json
from egptlib.decoding import Drafter, DraftLength, FixedLength, SceneSession, SequenceDrafter, as_drafter, ask_together
from egptlib.measuring import MethodRuns, compare_speed, transformers_generate
from egptlib.models import Model, Prompt, load_pair
from egptlib.scenes import Scene, open_scenes

PER_QUESTION, KEPT, BATCH = "generate per question", "generate, scene's cache kept", "generate, left-padded batch"
TOGETHER, SEQUENCE = "session, ask_all", "sessions of a sequence, ask_together"
WANTED = {PER_QUESTION: 4.5, KEPT: 3.0, BATCH: 2.0}  # times as fast, of TOGETHER
Answers = list[list[int]]


def generated(target: Model, tokens: int, **inputs: Any) -> torch.Tensor:
    out: Any = GenerationMixin.generate(target.module, do_sample=False, max_new_tokens=tokens, **inputs)
    return out


def embedded(target: Model, scene: Scene) -> list[torch.Tensor]:
    """The prompts' embeddings [1, T, H], the pictures preprocessed and seen once."""
    inputs, embeds = None, []
    for question in scene.questions:
        inputs = target.encode(scene, question, like=inputs)
        embeds.append(Prompt.of(target.embed(inputs)).embeds)
    return embeds


@torch.no_grad()
def with_kept_cache(target: Model, tokens: int, scene: Scene) -> Answers:
    embeds = embedded(target, scene)
    shortest = min(e.shape[1] for e in embeds)
    same = torch.stack([(e[0, :shortest] == embeds[0][0, :shortest]).all(-1) for e in embeds]).all(0)
    length = min(int(same.int().cumprod(0).sum()), shortest - 1)
    cache, answers = DynamicCache(config=target.language_model.config), []
    target.language_model(inputs_embeds=embeds[0][:, :length], past_key_values=cache, use_cache=True)
    for prompt in embeds:
        if cache.get_seq_length() > length:
            cache.crop(length - cache.get_seq_length())
        mask = torch.ones(prompt.shape[:2], dtype=torch.long)
        out = generated(target, tokens, inputs_embeds=prompt, attention_mask=mask, past_key_values=cache)
        answers.append(out[0].tolist())
    return answers


@torch.no_grad()
def in_a_padded_batch(target: Model, tokens: int, scene: Scene) -> Answers:
    embeds = embedded(target, scene)
    longest = max(e.shape[1] for e in embeds)
    batch = torch.zeros(len(embeds), longest, embeds[0].shape[-1], dtype=embeds[0].dtype)
    mask = torch.zeros(batch.shape[:2], dtype=torch.long)
    for row, prompt in enumerate(embeds):
        batch[row, longest - prompt.shape[1] :], mask[row, longest - prompt.shape[1] :] = prompt[0], 1
    return [ended(row, target) for row in generated(target, tokens, inputs_embeds=batch, attention_mask=mask).tolist()]


def ended(tokens: list[int], target: Model) -> list[int]:
    """Up to the end token; padding follows it."""
    return next((tokens[: i + 1] for i, token in enumerate(tokens) if token in target.eos_token_ids), tokens)


def ask_each(target: Model, drafter: Drafter, tokens: int, gamma: DraftLength, scene: Scene) -> Answers:
    session = SceneSession(target, drafter, scene)
    outs = [session.ask(question, gamma=gamma, max_new_tokens=tokens) for question in scene.questions]
    return [out.token_ids.tolist() for out in outs]


def ask_all(target: Model, drafter: Drafter, tokens: int, gamma: DraftLength, scenes: list[Scene]) -> list[Answers]:
    asked = [(SceneSession(target, drafter, scene), scene.questions) for scene in scenes]
    answers = ask_together(asked, gamma=gamma, max_new_tokens=tokens)
    return [[out.token_ids.tolist() for out in outs] for outs in answers]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", default="mini", help="mini, midi, or a pair.toml")
    parser.add_argument("--scenes", type=int, default=24, help="of the test split, whole sequences of them")
    parser.add_argument("--threads", type=int, default=2, help="torch threads, of every method")
    parser.add_argument("--tokens", type=int, default=50, help="longest answer")
    parser.add_argument("--alone", type=float, nargs=2, default=(8, 0.0), help="gamma and least confidence, one by one")
    parser.add_argument("--together", type=float, nargs=2, default=(5, 0.0), help="the same in a batch")
    parser.add_argument("--json", type=Path, help="leave seconds and ratios here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair, folder = load_pair(arguments.pair), open_scenes("streets", split="test", event_views=5)
    target, tokens, drafter = pair.target, arguments.tokens, as_drafter(pair.drafter, pair.target)
    alone, together = (FixedLength(int(g), c) for g, c in (arguments.alone, arguments.together))
    nothing, one_by_one = SequenceDrafter(), transformers_generate(target, tokens)
    methods: dict[str, Callable[[Scene], Answers]] = {
        PER_QUESTION: lambda scene: [one_by_one(scene, question) for question in scene.questions],  # type: ignore[misc]
        KEPT: lambda scene: with_kept_cache(target, tokens, scene),
        BATCH: lambda scene: in_a_padded_batch(target, tokens, scene),
        "session, ask": lambda scene: ask_each(target, drafter, tokens, alone, scene),
        "session, ask_all, without a drafter": lambda scene: ask_all(target, nothing, tokens, alone, [scene])[0],
        TOGETHER: lambda scene: ask_all(target, drafter, tokens, together, [scene])[0],
    }
    scenes = [folder[i] for i in range(min(arguments.scenes, len(folder)))]
    for method in methods.values():
        method(scenes[0])
    runs = {name: MethodRuns() for name in (*methods, SEQUENCE)}

    def keep(name: str, seconds: float, answers: Answers, own: Answers) -> None:
        runs[name].seconds.append(seconds)
        runs[name].token_ids.append([token for answer in answers for token in answer])
        runs[name].identical.append(answers == own)

    sequences = []
    for sequence, members in groupby(scenes, key=lambda scene: scene.metadata["sequence"]):
        group = list(members)
        owns = []
        for scene in group:
            sequences.append(sequence)
            for name, method in methods.items():
                start = time.perf_counter()
                answers = method(scene)
                seconds = time.perf_counter() - start
                if name == PER_QUESTION:
                    owns.append(answers)
                keep(name, seconds, answers, owns[-1])
        start = time.perf_counter()
        whole = ask_all(target, drafter, tokens, together, group)
        seconds = (time.perf_counter() - start) / len(group)
        for answers, own in zip(whole, owns, strict=True):
            keep(SEQUENCE, seconds, answers, own)
    table: dict[str, Any] = {}
    print(f"{len(sequences)} scenes of {len(set(sequences))} sequences, threads: {arguments.threads}; times as fast as")
    print(f"{'':<40} {'seconds':>8}  " + "  ".join(f"{name:>30}" for name in WANTED) + "   identical")
    for name, run in runs.items():
        speeds = {against: compare_speed(run, runs[against], sequences) for against in WANTED}
        table[name] = {against: asdict(speed) for against, speed in speeds.items()}
        told = "  ".join(f"{s.ratio_of_sums:>13.2f} [{s.low:>6.2f}, {s.high:>6.2f}]" for s in speeds.values())
        print(f"{name:<40} {sum(run.seconds):>8.2f}  {told}   {sum(run.identical) / len(sequences):.1%}")
    if arguments.json is not None:
        by_scene = {name: run.seconds for name, run in runs.items()}
        write_json(arguments.json, {"sequences": sequences, "seconds": by_scene, "table": table})
    missed = [f"{name} is not identical" for name, run in runs.items() if not all(run.identical)]
    for against, wanted in WANTED.items():
        if table[TOGETHER][against]["ratio_of_sums"] < wanted:
            missed.append(f"{TOGETHER}: expected {wanted} times {against}")
    print(json.dumps(missed) if missed else "all reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
