"""What would make the recorded real pair faster: speedup by acceptance and cost of a verification, as a map."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from egptlib.metrics import MapPoint, SpeedupMap, expected_tokens, least_alpha
from egptlib.recorded._halves import trace_from_recorded
from egptlib.recorded._recorded import Recorded
from egptlib.traces import Trace, fit_trace


@dataclass(frozen=True)
class HidingCosts:
    """What one verification of the free drafts and plain decoding after it cost, in seconds.

    Fitted on runs of the `LVL` kind: both models read their prompts, all drafts that fit the window are verified in
    one pass, the rest is decoded step by step.

    Attributes:
        baseline_prefill: the target's prefill in the plain runs.
        target_prefill, drafter_prefill: prefills in the runs with drafts.
        target_step: one plain step of the target (ratio of sums, the prefill's token not counted).
        drafter_step: one of the drafter.
        verify: the pass over the free drafts.
        adapter: of one sample.
        drafted: mean number of drafts it judged.
    """

    baseline_prefill: float
    target_prefill: float
    drafter_prefill: float
    target_step: float
    drafter_step: float
    verify: float
    adapter: float
    drafted: float

    @classmethod
    def from_trace(cls, trace: Trace, method: str) -> "HidingCosts":
        """Fit from the runs of one method and the plain runs of the same prompts. Errors as `fit_trace`."""
        costs = fit_trace(trace, method, ["baseline"])
        return cls(
            baseline_prefill=costs.target_prefill,
            target_prefill=costs.target_prefill * costs.contention_target,
            drafter_prefill=costs.drafter_prefill,
            target_step=costs.target_step,
            drafter_step=costs.drafter_step,
            verify=costs.verify[1],
            adapter=costs.call_overhead,
            drafted=fmean(row.rounds[0][0] for row in trace.method(method).rows),
        )

    @property
    def verify_cost(self) -> float:
        """The verification in target steps."""
        return self.verify / self.target_step

    def map_speedup(self, alpha: float, verify_cost: float, num_tokens: float, drafter_cost: float = 1.0) -> float:
        """The speedup that `speedup_map` has at one point."""
        found = self.speedup_map([alpha], [verify_cost], num_tokens, drafter_cost)
        return float(found.speedup[0, 0])

    def speedup_map(
        self,
        alphas: Sequence[float] | np.ndarray,
        verify_costs: Sequence[float] | np.ndarray,
        num_tokens: float,
        drafter_cost: float = 1.0,
    ) -> SpeedupMap:
        """Speedup [estimated, overlap computed] if speculation went on to the end of the answer.

        The target's prefill gives a token; the drafts that fit the window are free and verified in one pass; rounds of
        the best gamma up to 32 follow. Either part is left out where it would cost more than it gives, so no figure is
        below 1.

        Args:
            alphas: probability that a draft token is accepted, given those before it.
            verify_costs: any verification, in target steps.
            num_tokens: tokens of the answer.
            drafter_cost: a step of what drafts in the rounds, in the drafter's own (an EAGLE-style head costs a
                fraction). The window is always the drafter's: a head reads the target's states, not there yet.
        """
        alpha, cost = np.asarray(alphas, dtype=float)[None, :], np.asarray(verify_costs, dtype=float)[:, None]
        draft = self.drafter_step * drafter_cost
        check = self.target_step * cost
        free = int(max(0.0, self.target_prefill - self.drafter_prefill) / self.drafter_step)
        gammas = np.arange(33)[:, None, None]
        tokens = np.array([[expected_tokens(a, int(g)) for a in alpha[0]] for g in gammas.ravel()])[:, None]
        rates = (np.where(gammas > 0, check, self.target_step) + gammas * draft) / tokens  # seconds a token
        best = rates.argmin(axis=0)
        a_token = rates.min(axis=0)
        left = num_tokens - 1
        gained = np.minimum(left, np.array([expected_tokens(a, free) for a in alpha[0]]))
        rest = np.minimum(check + (left - gained) * a_token, left * a_token)
        plain = self.target_prefill + self.target_step * left
        return SpeedupMap(alpha[0], cost[:, 0], plain / (self.target_prefill + rest), best, free)

    def needed_alpha(
        self, goal: float, verify_cost: float, num_tokens: float, drafter_cost: float = 1.0
    ) -> float | None:
        """Return the least acceptance that gives a speedup of `goal`; None where not even 1 does."""
        return least_alpha(lambda alpha: self.map_speedup(alpha, verify_cost, num_tokens, drafter_cost), goal)


ASSUMED_VERIFY = 1.2  # target steps: hoped of kernels that do not unpack every weight, as from bitsandbytes 0.50 on
ASSUMED_HEAD = 0.1  # of the drafter's step: one layer beside 32


@dataclass(frozen=True)
class RecordedPair:
    """What the map needs to know of recorded runs.

    Attributes:
        costs: fitted on them.
        num_tokens: tokens of an answer, on average.
        alpha: acceptance of one draft token, given those before it.
        speedup: plain over speculative total time, the overlap computed.
    """

    costs: HidingCosts
    num_tokens: float
    alpha: float
    speedup: float

    @classmethod
    def from_recorded(cls, file: Recorded) -> "RecordedPair":
        """Read the runs with L4 of an `e2e_wallclock` file of the `LVL` kind. Errors as `fit_trace`."""
        method = "L4+VL"
        plain, rows = file.method("baseline"), file.method(method)
        costs = HidingCosts.from_trace(trace_from_recorded(file), method)
        accepted = sum(row["accepted"] for row in rows)
        reached = accepted + sum(row["accepted"] < row["drafted"] for row in rows)
        ratio = sum(row["baseline_seconds"] for row in rows) / sum(row["total_seconds"] for row in rows)
        return cls(costs, fmean(row["num_tokens"] for row in plain), accepted / reached, ratio)

    def maps(self, alphas: np.ndarray, verify_costs: np.ndarray) -> tuple[SpeedupMap, SpeedupMap]:
        """The map where the recorded drafter drafts in the rounds, and where a head does (`ASSUMED_HEAD`)."""
        drafter, head = (
            self.costs.speedup_map(alphas, verify_costs, self.num_tokens, cost) for cost in (1.0, ASSUMED_HEAD)
        )
        return drafter, head

    def points(self) -> dict[str, MapPoint]:
        """Where the pair stands, and where cheaper verification and a cheap head would move it."""
        points = {"today": MapPoint(self.alpha, self.costs.verify_cost, 1.0, self.speedup, "computed overlap")}
        moves = {
            "cheap verification": (ASSUMED_VERIFY, 1.0),
            "head": (self.costs.verify_cost, ASSUMED_HEAD),
            "both": (ASSUMED_VERIFY, ASSUMED_HEAD),
        }
        for name, (verify, drafter) in moves.items():
            speedup = self.costs.map_speedup(self.alpha, verify, self.num_tokens, drafter)
            points[name] = MapPoint(self.alpha, verify, drafter, speedup, "estimated")
        return points

    def needed(self) -> list[dict[str, float | str | None]]:
        """What 1.5x and 2x need at each of the `points`: acceptance and gamma; None where out of reach."""
        rows: list[dict[str, float | str | None]] = []
        for name, point in self.points().items():
            for goal in (1.5, 2.0):
                alpha = self.costs.needed_alpha(goal, point.verify_cost, self.num_tokens, point.drafter_cost)
                gamma = None
                if alpha is not None:
                    found = self.costs.speedup_map([alpha], [point.verify_cost], self.num_tokens, point.drafter_cost)
                    gamma = int(found.gamma[0, 0])
                rows.append(
                    {
                        "point": name,
                        "verify cost": point.verify_cost,
                        "drafter cost": point.drafter_cost,
                        "goal": goal,
                        "acceptance": alpha,
                        "gamma": gamma,
                    }
                )
        return rows

    def reading(self) -> list[str]:
        """What the map says, in three sentences."""
        needed = {(row["point"], row["goal"]): (row["acceptance"], row["gamma"]) for row in self.needed()}

        def needs(name: str) -> str:
            parts = []
            for goal in (1.5, 2.0):
                alpha, gamma = needed[name, goal]
                least = "above 0.99" if isinstance(alpha, float) and alpha >= 0.995 else f"{alpha:.2f}" if alpha else ""
                parts.append(
                    f"{goal:g}x needs acceptance {least} at gamma {gamma}" if alpha else f"{goal:g}x is out of reach"
                )
            return " and ".join(parts)

        points = self.points()
        today, cheap, head, both = (points[name] for name in ("today", "cheap verification", "head", "both"))
        most = self.costs.map_speedup(1.0, today.verify_cost, self.num_tokens)
        return [
            f"Today an acceptance of {today.alpha:.2f} and a verification of {today.verify_cost:.1f} target steps give "
            f"{today.speedup:.3f}x [{today.tag}]; there {needs('today')}, and every draft accepted would give "
            f"{most:.2f}x [estimated].",
            f"Verification at {cheap.verify_cost:g} steps (assumed, as hoped of bitsandbytes 0.50) would move the same "
            f"acceptance to {cheap.speedup:.2f}x only, where {needs('cheap verification')}, since a drafter step costs "
            f"{self.costs.drafter_step / self.costs.target_step:.2f} target steps [estimated].",
            f"An EAGLE-style head at {both.drafter_cost:g} of a drafter step (assumed) would give {head.speedup:.2f}x "
            f"with today's verification and {both.speedup:.2f}x with the cheap one, where {needs('both')} [estimated].",
        ]


RTX_4090 = RecordedPair(  # e2e_wallclock_20260207_113610_LVL.json, method L4+VL, as `from_recorded` reads it
    HidingCosts(
        baseline_prefill=0.326333,
        target_prefill=0.326197,
        drafter_prefill=0.098812,
        target_step=0.0152779,
        drafter_step=0.0105931,
        verify=0.0641522,
        adapter=0.00221171,
        drafted=20.9778,
    ),
    num_tokens=46.8519,
    alpha=0.808647,
    speedup=1.01276,
)
