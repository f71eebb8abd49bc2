"""The recorded runs of the real 7B pair: fit their costs on some prompts, predict the time of others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from egptlib.metrics import expected_tokens
from egptlib.traces._recorded import Recorded, Row


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
    def fit(cls, rows: Sequence[Row], baseline: Sequence[Row]) -> "HidingCosts":
        """Fit from the rows of one method and the plain runs of the same prompts.

        Raises:
            ValueError: no rows, or rows without a window (the models shared the device).
        """
        if not rows or not baseline or "gap_seconds" not in rows[0]:
            raise ValueError("expected rows of an e2e_wallclock file with gap_ms, and their baseline")
        step = sum(r["target_stages"]["decode"] for r in baseline) / sum(r["num_tokens"] - 1 for r in baseline)
        # What decoding took beyond the steps that remained: the draft kept and the bonus needed none.
        verify = _mean(r["target_stages"]["decode"] - step * remaining_steps(r) for r in rows)
        return cls(
            baseline_prefill=_mean(r["target_stages"]["prefill"] for r in baseline),
            target_prefill=_mean(r["prefill_seconds"] for r in rows),
            drafter_prefill=_mean(r["drafter_stages"]["prefill"] for r in rows),
            target_step=step,
            drafter_step=_mean(r["drafter_step_seconds"] for r in rows),
            verify=verify,
            adapter=_mean(r["drafter_stages"]["adapter"] for r in rows),
            drafted=_mean(r["drafted"] for r in rows),
        )

    @property
    def verify_cost(self) -> float:
        """The verification in target steps."""
        return self.verify / self.target_step

    def predict(self, row: Row) -> float:
        """Seconds of a run, from how many tokens it wrote and how many drafts were accepted."""
        return self.target_prefill + self.adapter + self.verify + self.target_step * remaining_steps(row)

    def predict_baseline(self, num_tokens: int) -> float:
        """Seconds of plain decoding."""
        return self.baseline_prefill + self.target_step * (num_tokens - 1)

    def map_speedup(self, alpha: float, verify_cost: float, num_tokens: float, drafter_cost: float = 1.0) -> float:
        """Speedup [estimated, overlap computed] if speculation went on to the end of the answer.

        The drafts that fit the window are free and verified in one pass; then rounds of the best gamma up to 16
        follow. Either part is left out where it would cost more than it gives, so the figure is 1 at least.

        Args:
            alpha: probability that a draft token is accepted, given those before it.
            verify_cost: any verification, in target steps.
            num_tokens: tokens of the answer.
            drafter_cost: a drafter step, in those measured (an EAGLE-style head costs a fraction).
        """
        draft = self.drafter_step * drafter_cost
        free = int(max(0.0, self.target_prefill - self.drafter_prefill) / draft)
        check = self.target_step * verify_cost
        a_token = min(
            self.target_step,
            *((check + gamma * draft) / expected_tokens(alpha, gamma) for gamma in range(1, 17)),
        )
        plain = self.target_prefill + self.target_step * (num_tokens - 1)
        left = num_tokens - 1
        after_free = max(0.0, left - min(left, expected_tokens(alpha, free) - 1))
        best = min(check + after_free * a_token, left * a_token)
        return plain / (self.target_prefill + best)


@dataclass(frozen=True)
class HalfPrediction:
    """Totals of the prompts not used for fitting, in seconds."""

    method: str
    predicted: float
    measured: float
    predicted_ratio: float
    measured_ratio: float

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.predicted / self.measured - 1


def predict_other_half(file: Recorded, fitted_on: Iterable[int]) -> list[HalfPrediction]:
    """Fit each method on some prompts and predict the totals of the others, one entry a method.

    Args:
        file: an `e2e_wallclock` file of the `LVL` kind.
        fitted_on: indices of prompts, in the order of the baseline.
    """
    chosen = set(fitted_on)
    baseline = [row for row in file.rows if row["method"] == "baseline"]
    order = {(row["sample"], row["question"]): i for i, row in enumerate(baseline)}
    split = {m: ([], []) for m in dict.fromkeys(row["method"] for row in file.rows)}  # type: ignore[var-annotated]
    for row in file.rows:
        split[row["method"]][order[row["sample"], row["question"]] not in chosen].append(row)
    plain_fit, plain_rest = split.pop("baseline")
    results = []
    for method, (fit, rest) in split.items():
        costs = HidingCosts.fit(fit, plain_fit)
        predicted, measured = sum(map(costs.predict, rest)), sum(row["total_seconds"] for row in rest)
        plain_predicted = sum(costs.predict_baseline(row["num_tokens"]) for row in plain_rest)
        plain_measured = sum(row["total_seconds"] for row in plain_rest)
        results.append(
            HalfPrediction(method, predicted, measured, plain_predicted / predicted, plain_measured / measured)
        )
    return results


def remaining_steps(row: Row) -> int:
    """Plain steps after the prefill's token, the drafts kept and the bonus."""
    return max(0, row["num_tokens"] - 2 - row["accepted"])


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
