"""One pass over a pair on its own devices: is it right, what does it need, what does it cost; one page says it.

Low precision is right where its greedy answers part from transformers' own only near a tie.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from egptlib.decoding import (
    CascadeDrafter,
    Divergence,
    Generation,
    NgramDrafter,
    SceneSession,
    as_drafter,
    first_divergence,
    hidden_prefill_generate,
    pipelined_generate,
    speculative_generate,
)
from egptlib.measuring._baselines import transformers_generate
from egptlib.measuring._costs import CostReport, concurrent_drafter, report_costs
from egptlib.measuring._hiding import HidingRun, compare_prefill_hiding, contention
from egptlib.measuring._methods import Method, plain_loop, token_ids_of
from egptlib.models import Model, Pair, device_name


@dataclass(frozen=True)
class Parted:
    """One answer that is not `generate`'s.

    Attributes:
        scene, question: the prompt.
        length: tokens of `generate`'s answer.
        at: where they part, the tokens there, and the gap between the two best logits.
        ours, theirs: these tokens as text; None where the answer had ended.
    """

    scene: str
    question: str
    length: int
    at: Divergence
    ours: str | None
    theirs: str | None


@dataclass(frozen=True)
class Divergences:
    """Greedy answers compared with `generate`'s.

    Attributes:
        prompts, tokens: answers compared, and tokens of `generate`'s.
        parted: method -> its answers that differ.
        gaps: gap between the two best logits at every token of `generate`'s answers, smallest first.
    """

    prompts: int
    tokens: int
    parted: dict[str, list[Parted]]
    gaps: list[float]

    def gap_rank(self, gap: float) -> float:
        """Share of all tokens whose two best logits are at most `gap` apart."""
        return sum(other <= gap for other in self.gaps) / len(self.gaps)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        median, low = self.gaps[len(self.gaps) // 2], self.gaps[len(self.gaps) // 100]
        lines = [
            f"{self.prompts} prompts, {self.tokens} tokens; gap of the two best logits, over all tokens: median "
            f"{median:.3g}, 1 % below {low:.3g}"
        ]
        for name, parted in self.parted.items():
            lines.append(f"  {name}: {len(parted)} of {self.prompts} answers part from generate's")
            for one in parted:
                at = one.at
                ours, theirs = ("nothing" if text is None else repr(text) for text in (one.ours, one.theirs))
                lines.append(
                    f"    {one.scene}, {one.question!r}: token {at.position + 1} of {one.length}, {ours} for {theirs}, "
                    f"gap {at.gap:.3g} ({at.gap / at.spacing:.0f} spacings of the dtype; {self.gap_rank(at.gap):.1%} "
                    "of all tokens are as near)"
                )
        return "\n".join(lines)


@torch.no_grad()
def find_divergences(
    target: Model, methods: Mapping[str, Method], prompts: Sequence[tuple[Any, str]], max_new_tokens: int = 50
) -> Divergences:
    """Compare each method's greedy answers with transformers' `target.generate(do_sample=False)`.

    In float32 there are none but at ties. In bfloat16 and 4 bit, sums over one token and over several are rounded in
    another order, so an answer may part from `generate`'s where the two best logits are within that rounding.

    Raises:
        ValueError: no prompt.
    """
    if not prompts:
        raise ValueError("divergences: expected at least one prompt, found none")
    generate, parted = transformers_generate(target, max_new_tokens), {name: list[Parted]() for name in methods}
    gaps: list[float] = []
    tokens = 0
    for scene, question in prompts:
        reference = token_ids_of(generate(scene, question))
        tokens += len(reference)
        best = target.forward_answer(target.encode(scene, question), reference)[1].float().topk(2).values
        gaps += (best[:, 0] - best[:, 1]).tolist()
        for name, method in methods.items():
            at = first_divergence(target, scene, question, token_ids_of(method(scene, question)), reference)
            if at is not None:
                texts = (None if i is None else target.tokenizer.decode([i]) for i in (at.token, at.reference))
                parted[name].append(Parted(getattr(scene, "id", ""), question, len(reference), at, *texts))
    return Divergences(len(prompts), tokens, parted, sorted(gaps))


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
