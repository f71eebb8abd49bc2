"""From a replayed schedule and measured costs to seconds: a distribution over samples, under a bound that holds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from egptlib.metrics._bootstrap import bootstrap
from egptlib.metrics._costs import Costs
from egptlib.metrics._replay import Replay

BOUND = "every draft accepted, drafting free"
Tag = Literal["measured (overlapped)", "measured (sequential)", "computed overlap", "estimated"]


@dataclass(frozen=True)
class Prediction:
    """Seconds of every sample with a method, beside plain decoding.

    Attributes:
        seconds: with the method.
        baseline: plain decoding by the same target.
        bound: no run of the method can take less: the target's prefill, and passes that accept every draft and
            cost no more than the cheapest one, with drafting for nothing.
        tag: where the seconds come from; stands beside every figure.

    Raises:
        ValueError: a sample takes less than its bound: the figures contradict one another.
    """

    seconds: Float[ndarray, "sample"]
    baseline: Float[ndarray, "sample"]
    bound: Float[ndarray, "sample"]
    tag: Tag = "estimated"

    def __post_init__(self) -> None:
        beyond = np.flatnonzero(self.seconds < self.bound * (1 - 1e-9))
        if beyond.size:
            i = int(beyond[0])
            raise ValueError(
                f"sample {i}: {self.seconds[i]:.4f} s is less than the bound of {self.bound[i]:.4f} s "
                f"({BOUND}): no method can do that"
            )

    @property
    def speedup(self) -> float:
        """Ratio of sums: total plain time over total time."""
        return float(self.baseline.sum() / self.seconds.sum())

    @property
    def mean_of_ratios(self) -> float:
        return float((self.baseline / self.seconds).mean())

    @property
    def largest_speedup(self) -> float:
        """What `speedup` can never exceed."""
        return float(self.baseline.sum() / self.bound.sum())

    @property
    def share_slower(self) -> float:
        """Share of samples that take longer than plain decoding."""
        return float((self.seconds > self.baseline).mean())

    def interval(self) -> tuple[float, float]:
        """Return the 95 % bootstrap interval of `speedup` over samples: what other samples would have given."""
        times = np.stack([self.baseline, self.seconds], axis=1)
        return bootstrap(times, lambda sums: sums[..., 0] / sums[..., 1])[1:]

    def __str__(self) -> str:
        low, middle, high = np.quantile(self.baseline / self.seconds, [0.05, 0.5, 0.95])
        return (
            f"{self.speedup:.3f}x [{self.tag}], samples {low:.2f} to {high:.2f} (median {middle:.2f}), "
            f"{self.share_slower:.0%} slower; at most {self.largest_speedup:.2f}x ({BOUND})"
        )


@dataclass(frozen=True)
class CostModel:
    """Predicts wall-clock from costs.

    What a round costs: the drafter reads what it has not read (one token; two after a round that kept every draft)
    and goes on step by step, the target reads the last token and the draft in one pass, the host adds its share.
    Steps get longer with the cache (`Costs.target_growth`, `drafter_growth`).
    """

    costs: Costs

    def plain_seconds(self, lengths: Int[ndarray, "sample"]) -> Float[ndarray, "sample"]:
        """Plain decoding: the prefill gives the first token, one step each of the others."""
        steps = lengths - 1.0
        growth = self.costs.target_growth * steps * (steps + 1) / 2
        return self.costs.target_prefill + steps * self.costs.target_step + growth

    @property
    def free_tokens(self) -> int:
        """Draft tokens made while the target reads, each model slowed down by the other; the prefill gives one."""
        costs = self.costs
        window = costs.target_prefill * costs.contention_target - costs.drafter_prefill * costs.contention_drafter
        step = costs.free_draft_step or costs.drafter_step * costs.contention_drafter
        return 1 + int(window / step) if window > 0 else 0

    def predict(
        self,
        replayed: Replay,
        lengths: Int[ndarray, "sample"],
        gamma: int,
        overlap: bool = False,
        reads: Bool[ndarray, "sample"] | None = None,
    ) -> Prediction:
        """Seconds of a replayed schedule at one gamma.

        Args:
            replayed: with `free` where free drafts were made.
            lengths: as given to `replay`.
            overlap: the drafter reads and drafts ahead while the target reads, each slowed down by the other. False:
                one after the other, free drafts paid for.
            reads: at which samples the drafter reads its prompt at all (`replay_policy`). None: at all of them, unless
                nothing is ever drafted.

        Raises:
            ValueError: the gamma was not replayed, the lengths are others, or a draft is longer than the passes that
                were measured.
        """
        costs, g = self.costs, replayed._index(gamma)
        drafted = replayed.drafted[..., g].astype(np.int64)  # [round, sample]
        accepted = replayed.accepted[..., g].astype(np.int64)
        gained = replayed.gained[..., g].astype(np.int64)
        made = drafted >= 0
        sizes = np.maximum(drafted, 0)
        if not np.isin(lengths - gained.sum(axis=0), (0, 1)).all():
            raise ValueError(f"lengths: expected those that were replayed, got {lengths.tolist()[:10]} and others")
        longest = int(sizes.max(initial=0))
        verify = np.array([costs.verify_seconds(size) for size in range(longest + 1)])
        ahead = gained.sum(axis=0) == lengths  # token 0 came from a free draft
        before = np.where(ahead, 0, 1) + np.cumsum(gained, axis=0) - gained  # tokens known when a round begins
        rounds = np.where(made, verify[sizes] + costs.round_overhead + costs.target_growth * before, 0.0)

        free = made & (before == 0)
        drafts = made & (sizes > 0) & ~free
        full = np.zeros_like(made)
        if made.shape[0] > 1:
            full[1:] = (accepted[:-1] == drafted[:-1]) & (drafted[:-1] > 0)
        two = costs.drafter_pass_seconds(2) if costs.drafter_passes else costs.drafter_step
        first = costs.draft_overhead + np.where(full, two, costs.drafter_step)
        extra = costs.drafter_stages.get("adapter", 0.0) + costs.drafter_growth * before
        drafting = np.where(drafts, first + (sizes - 1) * costs.drafter_step + sizes * extra, 0.0)

        ahead_seconds = (np.where(free, sizes, 0) * (costs.free_draft_step or costs.drafter_step)).sum(axis=0)
        if overlap:
            start = np.full(lengths.shape, costs.target_prefill * costs.contention_target)
        else:
            reading = costs.drafter_prefill * ((sizes > 0).any() if reads is None else reads)
            start = costs.target_prefill + reading + ahead_seconds
        seconds = costs.call_overhead + start + rounds.sum(axis=0) + drafting.sum(axis=0)
        most = np.where(free, sizes, 0).sum(axis=0)
        return Prediction(
            seconds,
            self.plain_seconds(lengths),
            self.bound_seconds(lengths, gamma, most),
            "estimated",
        )

    def bound_seconds(
        self, lengths: Int[ndarray, "sample"], gamma: int, free: Int[ndarray, "sample"]
    ) -> Float[ndarray, "sample"]:
        """Least seconds at this gamma: every draft accepted, drafting and the host for nothing."""
        cheapest = min(self.costs.verify_seconds(size) for size in range(gamma + 1))
        known = np.where(free > 0, np.minimum(free + 1, lengths), 1)
        passes = np.ceil((lengths - known) / (gamma + 1))
        first = np.array([self.costs.verify_seconds(int(size)) if size else 0.0 for size in free])
        return self.costs.target_prefill * min(1.0, self.costs.contention_target) + first + passes * cheapest
