"""The recorded runs of the real 7B pair as traces: costs fitted on some prompts foretell the time of the others."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from egptlib.metrics import CostModel, Tag
from egptlib.recorded._recorded import Recorded, Row
from egptlib.traces import Trace, TraceRow, fit_trace, recorded_schedule


def trace_from_recorded(file: Recorded) -> Trace:
    """Return what a result file of the earlier experiments has of a trace.

    `test_tokens`, `five_stage`, `parallel_prefill` and `token_adapter_benchmark` give each model's own answer (path
    "free"), the stages where they were timed. `e2e_wallclock` gives lengths, stages and totals of every method; of the
    runs that hid their drafts behind the prefill also the rounds, the first judging the free draft. The file's traps
    (`Recorded.traps`) hold for its trace.

    Raises:
        ValueError: a file of another kind.
    """
    fixed = {"device": "cuda: NVIDIA GeForce RTX 4090", "precision": "nf4", "source": str(file.path)}
    header: dict[str, Any] = fixed | {"pair": "eventgpt-videollava", "end_token_ids": (2,), "path": "free"}
    if file.kind in ("test_tokens", "five_stage", "parallel_prefill", "token_adapter_benchmark"):
        return Trace([_own_answers(row) for row in file.rows], **header)
    if file.kind == "e2e_wallclock":
        return Trace([_wall_clock(row) for row in file.rows], **header)
    raise ValueError(f"{file.path}: {file.kind} holds no answers of single samples that a trace could be made of")


def _own_answers(row: Row) -> TraceRow:
    return TraceRow(
        str(row["sample"]),
        row.get("question", ""),
        row["target_ids"],
        row["drafter_ids"],
        target_stages=row.get("target_stages", {}),
        drafter_stages=row.get("drafter_stages", {}),
        target_prompt_length=row.get("target_prompt_length", 0),
        drafter_prompt_length=row.get("drafter_prompt_length", 0),
    )


def _wall_clock(row: Row) -> TraceRow:
    plain, hidden = row["method"] == "baseline", "gap_seconds" in row
    tag: Tag = "measured (sequential)" if plain else "computed overlap" if hidden else "measured (overlapped)"
    rounds, drafter = [], dict(row.get("drafter_stages", {}))
    if hidden:
        drafter["draft"] = row["drafter_step_seconds"] * row["drafted"]
        # One pass over the free draft, then plain steps. Token 0 is the prefill's and counts as gained with the pass.
        n, accepted = row["num_tokens"], row["accepted"]
        rounds = [(row["drafted"], accepted, min(n, accepted + 2))] + [(0, 0, 1)] * max(0, n - accepted - 2)
    return TraceRow(
        str(row["sample"]),
        row["question"],
        num_tokens=row["num_tokens"],
        method=row["method"],
        tag=tag,
        rounds=rounds,
        target_stages=row["target_stages"],
        drafter_stages=drafter,
        total_seconds=row["total_seconds"],
    )


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
