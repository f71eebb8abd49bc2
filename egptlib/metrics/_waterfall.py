"""Where a speedup went: from an ideal or a paper's figure to the measured one, in factors that multiply to the whole.

In the words of the cost model (`CostModel`, steady decoding): a pass of the target yields `tokens_per_pass` tokens and
a round costs r = v + D + o plain steps (verification, drafting, the rest), so decoding alone is tokens_per_pass / r
times as fast. What reading prompts and answering many at once take away comes after it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from egptlib.metrics._formulas import acceptance_rate, expected_tokens

Kind = Literal["measured", "estimated", "given"]
ROUNDED = 1.01  # printed figures are


@dataclass(frozen=True)
class RunTotals:
    """Sums of one timed run, as far as its log tells; None or () where it does not.

    Attributes:
        tokens: written in `seconds`; only their ratio counts.
        seconds: of the clock.
        method: name of the run.
        group: what was run (a benchmark's name); runs of one group are compared.
        tokens_per_pass: tokens a target pass, bonus token included (tau, mean acceptance length); 1 of plain decoding.
        gamma: draft tokens a pass; the depth of a tree.
        accepted_at: share of passes that accepted at least 1, 2, ... draft tokens.
        step_seconds: seconds a token of one answer after its first token (TPOT).
        draft_seconds: a pass, spent drafting.
        verify_seconds: a pass, spent in the target.
        batch: answers at once.
        answers: how many there are, each with a first token that reading the prompt gives; 0 where `step_seconds` is
            not known.
    """

    tokens: float
    seconds: float
    method: str = ""
    group: str = ""
    tokens_per_pass: float | None = None
    gamma: float | None = None
    accepted_at: tuple[float, ...] = ()
    step_seconds: float | None = None
    draft_seconds: float | None = None
    verify_seconds: float | None = None
    batch: float = 1.0
    answers: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tokens", "seconds", "tokens_per_pass", "gamma", "step_seconds", "batch"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"run {self.method!r}: {name}: expected a number above 0, got {value}")


@dataclass(frozen=True)
class Factor:
    """One step of a waterfall: what it multiplies the speedup by, and where that is from."""

    name: str
    value: float
    kind: Kind
    why: str


@dataclass(frozen=True)
class Waterfall:
    """A measured speedup, taken apart.

    Attributes:
        start_name, start: what the factors begin with.
        factors: in order; `start` times all of them is `measured`.
        measured: tokens a second over those of plain decoding.
        changes: what other settings would give; all estimated.
        round_cost: r, plain steps a round costs; None where it is not known apart from reading prompts.
    """

    method: str
    start_name: str
    start: float
    factors: tuple[Factor, ...]
    measured: float
    changes: dict[str, float] = field(default_factory=dict)
    round_cost: float | None = None

    @property
    def product(self) -> float:
        return self.start * math.prod(factor.value for factor in self.factors)

    def __str__(self) -> str:
        lines, level = (
            [f"{self.method}: {self.measured:.3f}x", f"  {self.start_name:<28} {self.start:7.3f}x"],
            self.start,
        )
        for factor in self.factors:
            level *= factor.value
            lines.append(f"  {factor.name:<22} x {factor.value:.3f} {level:8.3f}x  {factor.why} [{factor.kind}]")
        if self.changes:
            told = ", ".join(f"{name} {value:.2f}x" for name, value in self.changes.items())
            lines.append(f"  would give [estimated]: {told}")
        return "\n".join(lines)


def explain(
    run: RunTotals,
    plain: RunTotals,
    *,
    paper: tuple[float, float] | None = None,
    draft_cost: float | None = None,
    alone: tuple[RunTotals, RunTotals] | None = None,
) -> Waterfall:
    """Take the speedup of a run apart.

    Args:
        run: a speculative one.
        plain: plain decoding of the same.
        paper: (speedup, tokens a pass) that it is held against; None: every draft accepted, drafting free, a
            verification that costs a step.
        draft_cost: c, steps of the target that a draft token costs, where the log does not tell (`fit_draft_cost`).
        alone: the same two with one answer at a time, which tell what the batch costs.

    Raises:
        ValueError: `run` has no tokens a pass or more than its drafts allow, or `draft_cost` contradicts it.
    """
    measured = _speedup(run, plain)
    label = run.method if run.batch == 1 else f"{run.method}, {run.batch:g} at once"
    whole = measured
    if alone is not None:
        run, plain = alone
        whole = _speedup(run, plain)
    tau = run.tokens_per_pass
    if tau is None:
        raise ValueError(f"run {run.method!r}: its log does not tell how many tokens a pass yields")
    if run.gamma is not None and tau > ROUNDED * (run.gamma + 1):
        raise ValueError(
            f"run {run.method!r}: {tau:g} tokens a pass, from {run.gamma:g} draft tokens and the target's own"
        )
    step = plain.step_seconds if plain.step_seconds and run.step_seconds else None
    decoding = step / run.step_seconds if step and run.step_seconds else whole
    plain_step = step or plain.seconds / plain.tokens
    cost = tau / decoding
    name, start, factors = _start(run, tau, paper)
    drafting, kind = _drafting(run, plain_step, draft_cost)
    if paper is not None:
        theirs = paper[1] / paper[0]
        why = f"a round costs {cost:.2f} plain steps, in the paper {theirs:.2f}"
        why += "" if drafting is None else f"; ours: drafting {drafting:.2f}, the rest {cost - drafting:.2f}"
        factors.append(Factor("cost of a round", theirs / cost, "measured", why))
    elif drafting is None:
        why = f"drafting and verifying cost {cost:.2f} plain steps a round"
        factors.append(Factor("cost of a round", 1 / cost, "measured", why))
    else:
        verify = cost - drafting if run.verify_seconds is None else run.verify_seconds / plain_step
        if verify <= 0:
            raise ValueError(
                f"run {run.method!r}: drafting would cost {drafting:.2f} of the {cost:.2f} steps a round costs"
            )
        factors += [
            Factor("draft cost", 1 / (1 + drafting), kind, f"drafting costs {drafting:.2f} plain steps a round"),
            Factor("verify cost", (1 + drafting) / (verify + drafting), kind, f"verifying costs {verify:.2f} steps"),
        ]
        if run.verify_seconds is not None:
            rest = max(cost - verify - drafting, 0.0)
            why = f"{rest:.2f} steps a round are neither model's"
            factors.append(Factor("host", (verify + drafting) / cost, "measured", why))
    if step:
        why = f"decoding alone is {decoding:.2f}x; reading prompts and beginning answers is not speculated on"
        factors.append(Factor("prefill and overhead", whole / decoding, "measured", why))
    if alone is not None:
        factors.append(Factor("batch", measured / whole, "measured", "answering several at once"))
    changes = _changes(run, plain, tau, cost, drafting, plain_step)
    return Waterfall(label, name, start, tuple(factors), measured, changes, cost if step else None)


def fit_draft_cost(runs: Sequence[RunTotals], plain: RunTotals) -> tuple[float, float] | None:
    """c and v of runs that differ in gamma alone: least squares of r = v + gamma c; None where that tells nothing."""
    known = [run for run in runs if run.gamma and run.tokens_per_pass]
    if len({run.gamma for run in known}) < 2:
        return None
    gammas = np.array([run.gamma for run in known], dtype=float)
    costs = np.array([(run.tokens_per_pass or 1) / _decoding(run, plain) for run in known])
    c, v = np.polyfit(gammas, costs, 1)
    return (float(c), float(v)) if c > 0 and v > 0 and (costs > gammas * c).all() else None


def _speedup(run: RunTotals, plain: RunTotals) -> float:
    return (run.tokens / run.seconds) / (plain.tokens / plain.seconds)


def _decoding(run: RunTotals, plain: RunTotals) -> float:
    if run.step_seconds and plain.step_seconds:
        return plain.step_seconds / run.step_seconds
    return _speedup(run, plain)


def _start(run: RunTotals, tau: float, paper: tuple[float, float] | None) -> tuple[str, float, list[Factor]]:
    if paper is not None:
        why = f"{tau:.2f} tokens a pass, in the paper {paper[1]:.2f}"
        return "paper", paper[0], [Factor("acceptance", tau / paper[1], "measured", why)]
    if run.gamma is None:
        return "a pass for the price of a step", tau, []
    why = f"{tau:.2f} tokens a pass of {run.gamma + 1:.3g}"
    return "every draft accepted", run.gamma + 1, [Factor("acceptance", tau / (run.gamma + 1), "measured", why)]


def _drafting(run: RunTotals, plain_step: float, draft_cost: float | None) -> tuple[float | None, Kind]:
    """Plain steps that the drafting of a round costs."""
    if run.draft_seconds is not None:
        return run.draft_seconds / plain_step, "measured"
    if draft_cost is not None and run.gamma is not None:
        return draft_cost * run.gamma, "estimated"
    return None, "measured"


def _changes(
    run: RunTotals,
    plain: RunTotals,
    tau: float,
    cost: float,
    drafting: float | None,
    plain_step: float,
) -> dict[str, float]:
    """Speedups that other settings would give, with the same prompts to read."""
    plain_token, token = plain.seconds / plain.tokens, run.seconds / run.tokens
    step = plain_step * (run.tokens - run.answers) / run.tokens  # a first token is no step's
    if run.step_seconds and plain.step_seconds:
        step /= run.batch  # of the clock
    reading = max(token - step * cost / tau, 0.0)

    def speedup(tokens_per_pass: float, cost: float) -> float:
        return plain_token / (reading + step * cost / tokens_per_pass)

    changes = {}
    if run.step_seconds and plain.step_seconds:
        changes["decoding alone"] = tau / cost
    if drafting is None:
        return changes
    verify = cost - drafting
    changes["drafter at half its cost"] = speedup(tau, verify + drafting / 2)
    changes["drafting free"] = speedup(tau, verify)
    if verify > 1.2:
        changes["verification at 1.2 steps"] = speedup(tau, 1.2 + drafting)
    if run.gamma is not None:
        slope = max(verify - 1, 0.0) / run.gamma  # from one step at gamma 0, as far as is known
        for gamma in _other_gammas(run):
            at = min(verify, 1.0) + slope * gamma + drafting / run.gamma * gamma
            changes[f"gamma {gamma}"] = speedup(_tokens_per_pass(run, tau, gamma), at)
    return changes


def _other_gammas(run: RunTotals) -> list[int]:
    """Shorter drafts, and longer ones where one rate of acceptance tells of them."""
    gamma = round(run.gamma or 0)
    most = gamma if run.accepted_at else 2 * gamma
    return [other for other in (1, 2, 3, 5, 8, 12) if other <= most and other != gamma]


def _tokens_per_pass(run: RunTotals, tau: float, gamma: int) -> float:
    """By position where the log tells it; else at one rate of acceptance."""
    if run.accepted_at:
        return 1 + sum(run.accepted_at[:gamma])
    return expected_tokens(acceptance_rate(tau, round(run.gamma or 1)), gamma)
