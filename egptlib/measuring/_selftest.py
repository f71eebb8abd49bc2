"""One pass over a pair on its own devices: is it right, what does it need, what does it cost; one page says it.

Low precision is right where its greedy answers part from transformers' own only near a tie.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from egptlib.decoding import (
    CascadeDrafter,
    Generation,
    NgramDrafter,
    SceneSession,
    as_drafter,
    hidden_prefill_generate,
    pipelined_generate,
    speculative_generate,
)
from egptlib.measuring._costs import CostReport, concurrent_drafter, report_costs
from egptlib.measuring._divergences import Divergences, find_divergences
from egptlib.measuring._hiding import HidingRun, compare_prefill_hiding, contention
from egptlib.measuring._methods import Method, plain_loop
from egptlib.models import Pair, device_name

ROUNDING = 4  # spacings of the logits' dtype within which two best logits are a tie


@dataclass(frozen=True)
class SelfTest:
    """What a self-test found.

    Attributes:
        pair: its name, devices and precision.
        divergences: each method's answers beside those of transformers' `generate`.
        costs: stages, steps, verifications and memory of both models.
        hiding: prefill hiding with overlap, in sequence and plainly.
        peak: by device, MiB that the process held at most; of the CPU what the system counts, libraries included.
    """

    pair: dict[str, Any]
    divergences: Divergences
    costs: CostReport
    hiding: list[HidingRun]
    peak: dict[str, float]

    def wrong(self) -> list[str]:
        """Methods whose answers part from `generate`'s where no rounding explains it."""
        parted = self.divergences.parted.items()
        return [name for name, cases in parted if any(c.at.gap > ROUNDING * c.at.spacing for c in cases)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the answers themselves."""
        hiding = [{k: v for k, v in vars(run).items() if k != "generation"} for run in self.hiding]
        costs, divergences = self.costs.to_dict(), asdict(self.divergences)
        told = {"pair": self.pair, "wrong": self.wrong(), "divergences": divergences, "costs": costs}
        return told | {"hiding": hiding, "peak": self.peak}

    def page(self) -> str:
        """The findings as Markdown, for an issue."""
        costs, beside = self.costs.costs, contention(self.hiding)
        overlapped, in_sequence, plain = (
            sum(getattr(run, name) for run in self.hiding) for name in ("overlapped", "in_sequence", "plain")
        )
        prompts = self.divergences.prompts
        identity = [
            (
                name,
                f"{prompts - len(parted)} of {prompts}",
                f"{max((c.at.gap / c.at.spacing for c in parted), default=0):.1f}",
            )
            for name, parted in self.divergences.parted.items()
        ]
        memory = [
            (side, *(f"{amount:,.1f}" for amount in amounts.values())) for side, amounts in self.costs.memory.items()
        ]
        stages = [
            (side, *(f"{1e3 * seconds.get(stage, 0):.1f}" for stage in ("preprocess", "vision", "prefill", "decode")))
            for side, seconds in self.costs.stages.items()
        ]
        curve = [(gamma, f"{costs.verify_cost(gamma):.2f}") for gamma in costs.verify]
        hiding = [
            (f"{1e3 * plain:.0f}", f"{1e3 * overlapped:.0f}", f"{1e3 * in_sequence:.0f}",
             f"{sum(r.free_tokens for r in self.hiding)}", f"{sum(r.free_accepted for r in self.hiding)}",
             f"{beside.target:.2f}, {beside.drafter:.2f}", "yes" if all(r.identical for r in self.hiding) else "NO")
        ]  # fmt: skip
        return "\n".join(
            [
                "# Self-test of " + str(self.pair["pair"]),
                "",
                *(f"- {name}: {value}" for name, value in self.pair.items()),
                f"- wrong: {', '.join(self.wrong()) or 'nothing'}",
                *_table("Answers equal to generate's", ("method", "equal", "largest gap, spacings"), identity),
                *_table("Memory, MiB", ("model", *next(iter(self.costs.memory.values()))), memory),
                *_table("Most held, MiB", ("device", "peak"), [(d, f"{p:,.0f}") for d, p in self.peak.items()]),
                *_table("Stages, ms", ("model", "preprocess", "vision", "prefill", "decode"), stages),
                *_table(
                    f"Verification in target steps of {1e3 * costs.target_step:.2f} ms; a drafter step costs "
                    f"{costs.cost_ratio:.3f}", ("draft tokens", "cost"), curve
                ),
                *_table(
                    f"Prefill hiding, {len(self.hiding)} prompts, ms",
                    ("plain", "hidden", "in sequence", "free tokens", "kept", "contention", "identical"), hiding,
                ),
                "",
            ]
        )  # fmt: skip


def selftest(
    pair: Pair,
    prompts: Sequence[tuple[Any, str]],
    *,
    gammas: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 12, 16),
    repeats: int = 5,
    max_new_tokens: int = 50,
    say: Callable[[str], Any] = lambda line: None,
) -> SelfTest:
    """Compare every lossless method with `generate`, then measure memory, costs and prefill hiding.

    Args:
        prompts: scene and question; costs are measured on the first.
        gammas: sizes of a draft whose verification is timed; 0 is added.
        repeats: of each timing.
        max_new_tokens: longest answer.
        say: told what is done next.

    Raises:
        ValueError: no prompt.
    """
    devices = {model.device for model in (pair.drafter, pair.target)}
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
    with concurrent_drafter(pair) as beside:
        methods = _methods(pair, beside, max_new_tokens)
        say(f"{len(prompts)} answers by generate and {len(methods)} methods")
        divergences = find_divergences(pair.target, methods, prompts, max_new_tokens)
        say("prefill hiding")
        hiding = compare_prefill_hiding(
            pair.target,
            beside,
            prompts,
            repeats=min(3, repeats),
            warm_ups=min(1, repeats - 1),
            max_new_tokens=max_new_tokens,
        )
    say("costs")
    scene, question = prompts[0]
    costs = report_costs(
        pair, scene, question, gammas=(0, *gammas), repeats=repeats, answer_tokens=max_new_tokens,
        measure_contention=False,
    )  # fmt: skip
    told = {"pair": pair.name, "drafter": f"{pair.drafter.name} on {device_name(pair.drafter.device)}"}
    told |= {"target": f"{pair.target.name} on {device_name(pair.target.device)}", "precision": costs.costs.precision}
    peak = {device_name(d): torch.cuda.max_memory_allocated(d) / 2**20 for d in devices if d.type == "cuda"}
    peak["this process, on the CPU"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return SelfTest(told | costs.costs.versions, divergences, costs, hiding, peak)


def _methods(pair: Pair, beside: Any, tokens: int) -> dict[str, Method]:
    target, drafter = pair.target, as_drafter(pair.drafter, pair.target, pair.matching)
    looked_up = NgramDrafter(target.tokenizer)
    options: dict[str, Any] = {"max_new_tokens": tokens}

    def together(scene: Any, question: str) -> Generation:
        others = [other for other in scene.questions if other != question][:2]
        return SceneSession(target, drafter, scene).ask_all([question, *others], **options)[0]

    methods: dict[str, Method] = {
        "plain loop": plain_loop(target, tokens),
        **{
            f"{pair.drafter.name}, gamma {gamma}": partial(
                speculative_generate, target, drafter, gamma=gamma, **options
            )
            for gamma in (1, 3, 8)
        },
        "n-grams, gamma 5": partial(speculative_generate, target, looked_up, gamma=5, **options),
        "prefill hidden": partial(hidden_prefill_generate, target, beside, **options),
        "pipelined": partial(pipelined_generate, target, beside, **options),
        "questions together": together,
    }
    if pair.matching == "tokens" and pair.vocabulary.is_shared:
        cascade = CascadeDrafter(pair.drafter, looked_up, pair.vocabulary)
        methods["n-grams > " + pair.drafter.name] = partial(speculative_generate, target, cascade, gamma=5, **options)
    return methods


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["", f"**{title}**", "", *("| " + " | ".join(map(str, line)) + " |" for line in lines)]
