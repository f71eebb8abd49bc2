"""The recorded runs of the real 7B pair: fit their costs on some prompts, predict the time of the others."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from egptlib.metrics import CostModel
from egptlib.recorded._recorded import Recorded
from egptlib.recorded._trace_source import trace_from_recorded
from egptlib.traces import fit_trace, recorded_schedule


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
    """Fit each method on some prompts and predict the totals of the others with `CostModel`, one entry a method.

    Of the other prompts it is told what replay would tell: how long the answers are, and how many drafts were kept.

    Args:
        file: an `e2e_wallclock` file of the `LVL` kind.
        fitted_on: indices of prompts, in the order of the baseline.

    Raises:
        ValueError: another kind of file, or runs without a window (the models shared the device).
    """
    trace, chosen = trace_from_recorded(file), set(fitted_on)
    plain = trace.method("baseline")
    order = {(row.sample, row.question): i for i, row in enumerate(plain.rows)}
    fit, rest = (
        trace.select(i for i, r in enumerate(trace.rows) if (order[r.sample, r.question] in chosen) is used)
        for used in (True, False)
    )
    results = []
    for method in trace.methods[1:]:
        if not all(row.rounds for row in trace.method(method).rows):
            raise ValueError(f"{file.path}: {method}: expected runs with gap_ms, whose one draft was verified once")
        costs, runs = fit_trace(fit, method, ["baseline"]), rest.method(method)
        schedule = recorded_schedule(runs)
        gamma = int(schedule.gammas[0])
        # A draft one or two longer than any that was fitted is taken to cost the same.
        model = CostModel(replace(costs, verify=costs.verify | {max(gamma, *costs.verify): costs.verify[1]}))
        predicted = float(model.predict(schedule, runs.lengths, gamma, overlap=True).seconds.sum())
        measured = sum(row.total_seconds or 0.0 for row in runs.rows)
        baseline = rest.method("baseline")
        baseline_predicted = float(model.plain_seconds(baseline.lengths).sum())
        baseline_measured = sum(row.total_seconds or 0.0 for row in baseline.rows)
        results.append(
            HalfPrediction(method, predicted, measured, baseline_predicted / predicted, baseline_measured / measured)
        )
    return results
