"""What both models of a pair cost on this machine: the figures every prediction stands on."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from egptlib._clock import READING, synchronize
from egptlib._terminal import columns
from egptlib.decoding import DrafterProcess, DrafterThread, as_drafter
from egptlib.measuring._hiding import compare_prefill_hiding, contention
from egptlib.metrics import Costs
from egptlib.models import Model, Pair, State, cache_bytes, describe_pair, peak_bytes, step_parts, stored_bytes

IN_A_ROW = 5  # drafter steps in one timing, as a draft of gamma 5 has them
PART_REPEATS = 40
ENOUGH = 2.0  # seconds of timings after which three of them will do, the first too: so long is hardly disturbed


@dataclass(frozen=True)
class CostReport:
    """Costs, and what explains them.

    Attributes:
        costs: what the cost model reads.
        stages: "target" and "drafter" -> seconds of the five stages of an answer. `load` is opening the scene, the same
            for both, and left out where the scene does not tell; `decode` is the model's own greedy answer.
        answer_tokens: how many tokens that answer has, by model.
        load_seconds: of the weights, by model, as the pair was opened.
        memory: by model, MiB of its weights and of the most that is needed beside them while it answers, and KiB of
            keys and values per position.
        c: the ratio T_q(1) / T_p(1), told apart by how a step is timed (see `report_costs`).
        parts: by model, seconds of a step by part (see `step_parts`), in rounds of five drafter steps and a pass of the
            target.
        weights_read: by model, bytes of the weights that a step reads.
        spread: name of a timing -> lower and upper quartile in seconds.
    """

    costs: Costs
    stages: dict[str, dict[str, float]]
    answer_tokens: dict[str, int]
    load_seconds: dict[str, float]
    memory: dict[str, dict[str, float]]
    c: dict[str, float]
    parts: dict[str, dict[str, float]]
    weights_read: dict[str, int]
    spread: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        costs = self.costs
        stages = ("load", *READING, "decode")
        told = [["stages, ms", *stages, "tokens"]]
        for side, seconds in self.stages.items():
            row = [f"{1e3 * seconds[stage]:.2f}" if stage in seconds else "-" for stage in stages]
            told.append([side, *row, str(self.answer_tokens[side])])
        memory = [["memory", *next(iter(self.memory.values())), "loaded in (s)"]]
        for side, amounts in self.memory.items():
            loaded = f"{self.load_seconds[side]:.2f}" if side in self.load_seconds else "-"
            memory.append([side, *(f"{amount:.2f}" for amount in amounts.values()), loaded])
        names = list(self.parts["target"])
        parts = [["of a step, ms", *names, "all", "weights read"]]
        for side, seconds in self.parts.items():
            whole, read = sum(seconds.values()), self.weights_read[side]
            speed = f"{read / 2**20:.1f} MiB, {read / whole / 1e9:.1f} GB/s"
            parts.append([side, *(f"{1e3 * seconds[name]:.3f}" for name in names), f"{1e3 * whole:.2f}", speed])
        whole = sum(self.parts["target"].values())
        shares = [self.parts["drafter"][name] / whole for name in names]
        parts.append(["makes c", *(f"{share:.3f}" for share in shares), f"{sum(shares):.3f}", ""])
        gammas = [gamma for gamma in costs.verify if gamma < 9 or gamma % 4 == 0]
        curve = [
            ["gamma", *map(str, gammas)],
            ["verify_cost", *(f"{costs.verify_cost(gamma):.2f}" for gamma in gammas)],
        ]
        return "\n".join(
            [
                f"{costs.pair}, {costs.precision}, {costs.device}, {costs.context_length} positions in the target's "
                "cache",
                *_indented(told),
                *_indented(memory),
                f"  step: T_p(1) {1e3 * costs.target_step:.2f} ms, T_q(1) {1e3 * costs.drafter_step:.2f} ms",
                "  c: " + ", ".join(f"{how} {ratio:.3f}" for how, ratio in self.c.items()),
                *_indented(parts),
                *_indented(curve),
                f"  contention: target {costs.contention_target:.2f}, drafter {costs.contention_drafter:.2f}; free "
                f"draft tokens on paper: {costs.free_draft_tokens}",
            ]
        )


def _indented(rows: list[list[str]]) -> list[str]:
    return ["  " + line for line in columns(rows)]


def report_costs(
    pair: Pair,
    scene: Any,
    question: str | None = None,
    *,
    gammas: Iterable[int] = range(33),
    repeats: int = 15,
    answer_tokens: int = 40,
    measure_contention: bool = True,
    precision: str | None = None,
) -> CostReport:
    """Time both models' stages, steps and verifications; medians of interleaved repeats.

    In each repeat everything is timed once, in a new random order, so that a busy moment of the machine hits no one
    figure alone. Every pass includes choosing its tokens, since that is when the device has to have finished.

    c is given three ways. "in a round": five drafter steps in a row against one target pass, in mixed order; this is
    the c of `costs`. "single steps": one step of each, in mixed order, with weights that other work has pushed out of
    the caches. "decode stages": seconds per token of both models' own greedy answers, each with its weights in the
    caches. "layers" is what it would be if only layers cost anything.

    Args:
        scene: gives the inputs; its `load_seconds` are noted.
        question: the scene's first when left out.
        gammas: sizes of a draft at which a target pass is timed.
        repeats: of everything, after one that warms up; at most three of what takes seconds, without.
        answer_tokens: length of the answers that the decode stage is timed on.
        measure_contention: also run both models at once (a second process on the CPU, a stream on a GPU).
        precision: what the report calls it; see `describe_pair` for what it is when left out.

    Raises:
        ValueError: no repeat, or a negative gamma.
    """
    sizes = sorted(set(gammas))
    if repeats < 1 or (sizes and sizes[0] < 0):
        raise ValueError(f"costs: expected at least one repeat and gammas from 0 on, found {repeats} and {sizes[:1]}")
    question = question or scene.questions[0]
    target, drafter = _Bench(pair.target, scene, question), _Bench(pair.drafter, scene, question)
    benches = {"target": target, "drafter": drafter}
    jobs: dict[str, Callable[[], object]] = {}
    for side, bench in benches.items():
        jobs |= {f"{side}.{stage}": job for stage, job in bench.stages().items()}
        jobs[f"{side}.decode"] = bench.decode(answer_tokens)
        jobs[f"{side}.step"] = bench.read(1)
    jobs["drafter.row"] = drafter.row(IN_A_ROW)
    jobs["drafter.2"] = drafter.read(2)
    jobs |= {f"verify.{gamma}": target.read(gamma + 1) for gamma in sizes}
    seconds = _interleaved(jobs, repeats, pair.target.device)
    if 0 in sizes:  # the same pass under two names
        seconds["target.step"] = seconds["verify.0"] = seconds["target.step"] + seconds["verify.0"]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    load = scene.metadata.get("load_seconds")
    loaded = {} if load is None else {"load": float(load)}
    before = {s: loaded | {x: median[f"{s}.{x}"] for x in READING} for s in benches}
    costs = Costs(
        target_step=median["target.step"],
        drafter_step=median["drafter.row"] / IN_A_ROW,
        verify={gamma: median[f"verify.{gamma}"] for gamma in sizes},
        drafter_passes={2: median["drafter.2"]},
        target_stages=before["target"],
        drafter_stages=before["drafter"],
        context_length=target.length,
        **describe_pair(pair) | ({"precision": precision} if precision else {}),
    )
    often = max(8, min(PART_REPEATS, int(2 * ENOUGH / (costs.target_step + IN_A_ROW * costs.drafter_step))))
    parts = {
        "target": step_parts(pair.target, target.state, often, 1, drafter.row(IN_A_ROW)),
        "drafter": step_parts(pair.drafter, drafter.state, often, IN_A_ROW, target.read(IN_A_ROW + 1)),
    }
    memory = {side: bench.memory(answer_tokens) for side, bench in benches.items()}
    if measure_contention:
        costs = _with_contention(costs, pair, scene, question)
    a_token = {side: median[f"{side}.decode"] / max(1, bench.answered - 1) for side, bench in benches.items()}
    return CostReport(
        costs=costs,
        stages={side: before[side] | {"decode": median[f"{side}.decode"]} for side in benches},
        answer_tokens={side: bench.answered for side, bench in benches.items()},
        load_seconds=dict(pair.load_seconds),
        memory=memory,
        c={
            "in a round": costs.cost_ratio,
            "single steps": median["drafter.step"] / median["target.step"],
            "decode stages": a_token["drafter"] / a_token["target"],
            "layers": _layers(pair.drafter) / _layers(pair.target),
        },
        parts=parts,
        weights_read={side: bench.weights_read for side, bench in benches.items()},
        spread={name: _quartiles(values) for name, values in seconds.items()},
    )


class _Bench:
    """One model with a prompt read, whose passes can be timed again and again at the same place."""

    def __init__(self, model: Model, scene: Any, question: str):
        self.model, self.scene, self.question = model, scene, question
        self.pictures = model.encode(scene, question)
        with torch.no_grad():
            self.embeds = model.embed(model.encode(scene, question, like=self.pictures))
        self.state: State = model.prefill(self.embeds)
        self.length = self.state.length
        self.answered = 0

    @property
    def weights_read(self) -> int:
        """Bytes of the weights that a step goes through: all layers and the lm head."""
        layers: Any = self.model.language_model.layers
        return stored_bytes(layers, self.model.lm_head)

    def memory(self, answer_tokens: int) -> dict[str, float]:
        """MiB of weights and of the most that an answer needs beside them, KiB of keys and values a position."""

        def answer() -> None:
            self.model.decode_greedy(self.model.start(self.scene, self.question), answer_tokens)

        return {
            "weights (MiB)": stored_bytes(self.model.module) / 2**20,
            "peak beside them (MiB)": peak_bytes(answer, self.model.device) / 2**20,
            "cache a position (KiB)": cache_bytes(self.model.language_model.config, self.model.dtype.itemsize) / 1024,
        }

    def stages(self) -> dict[str, Callable[[], object]]:
        model, asked = self.model, (self.scene, self.question)
        return {
            "preprocess": lambda: model.encode(*asked),
            "vision": torch.no_grad()(lambda: model.embed(model.encode(*asked, like=self.pictures))),
            "prefill": lambda: int(model.prefill(self.embeds).logits.argmax()),
        }

    def read(self, count: int) -> Callable[[], object]:
        """A pass over `count` tokens after the prompt, with choosing what follows each."""
        tokens = torch.full((1, count), 3, device=self.model.device)

        def job() -> None:
            self.model.step(tokens, self.state).logits.argmax(dim=-1).tolist()
            self.model.rollback(self.state, self.length)

        return job

    def row(self, count: int) -> Callable[[], object]:
        """`count` steps, one after the other."""

        def job() -> None:
            token = 3
            for _ in range(count):
                logits = self.model.step(torch.tensor([[token]], device=self.model.device), self.state).logits
                token = int(logits[0, -1].argmax())
            self.model.rollback(self.state, self.length)

        return job

    def decode(self, count: int) -> Callable[[], object]:
        """The decode stage of the model's own answer."""

        def job() -> None:
            state = replace(self.state, logits=self._first_logits)
            token_ids, _ = self.model.decode_greedy(state, count)
            self.answered = len(token_ids)
            self.state.length = state.length
            self.model.rollback(self.state, self.length)

        self._first_logits = self.state.logits
        return job


def _interleaved(jobs: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    order, rng = list(jobs), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats + 1):
        rng.shuffle(order)
        for name in order:
            if len(seconds[name]) >= min(3, repeats) and sum(seconds[name]) > ENOUGH:
                continue
            synchronize(device)
            start = time.perf_counter()
            with torch.no_grad():
                jobs[name]()
            synchronize(device)
            took = time.perf_counter() - start
            if repeat or took > ENOUGH:  # the first one warms up
                seconds[name].append(took)
    return seconds


def concurrent_drafter(pair: Pair) -> DrafterProcess | DrafterThread:
    """The pair's drafter beside its target: in a process of its own on the CPU, on a stream elsewhere."""
    drafter = as_drafter(pair.drafter, pair.target, pair.matching)
    kind = DrafterProcess if pair.drafter.device.type == "cpu" else DrafterThread
    return kind(drafter, pair.target.eos_token_ids)


def _with_contention(costs: Costs, pair: Pair, scene: Any, question: str) -> Costs:
    repeats, warm_ups = (5, 3) if costs.target_prefill < ENOUGH else (2, 1)
    with concurrent_drafter(pair) as beside:
        runs = compare_prefill_hiding(
            pair.target, beside, [(scene, question)], repeats=repeats, warm_ups=warm_ups, max_new_tokens=34
        )
    between = contention(runs)
    return replace(costs, contention_target=between.target, contention_drafter=between.drafter)


def _layers(model: Model) -> int:
    return int(model.language_model.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]


def _quartiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]
