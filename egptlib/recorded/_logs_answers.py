"""Benchmarks that write one JSON a question: Spec-Bench (ACL Findings 2024) and MMSpec (2603.14989).

Spec-Bench counts the target's own token in `accept_lengths`, MMSpec's `acceptance_length` does not; so passes are
counted, and tokens a pass are `new_tokens` over passes in both. Spec-Bench's own script divides means of single ratios
and counts the baseline's tokens with a tokenizer anew; here sums are divided.
"""

from collections.abc import Sequence

from egptlib.metrics import RunTotals
from egptlib.recorded._recorded import Record
from egptlib.traces import TraceRow

_NOTES = ("reading the prompt is inside every wall time: what decoding alone gives cannot be told",)


def read_answers(records: Sequence[Record]) -> tuple[list[RunTotals], list[TraceRow], tuple[str, ...]]:
    """Return the totals of a file of answers, one row a question (its first choice), and notes."""
    rows, passes, tokens, seconds, drafting = [], 0.0, 0.0, 0.0, 0.0
    method = str(records[0].fields.get("model_id", records[0].path.stem))
    for place, record in enumerate(records):
        first = record.records("choices")[0]
        new, wall = first.numbers("new_tokens"), first.numbers("wall_time")
        if not new or len(new) != len(wall):
            raise first.error("wall_time", f"a time for each of {len(new)} 'new_tokens'")
        tokens, seconds, passes = tokens + sum(new), seconds + sum(wall), passes + _passes(first, new)
        drafting += sum(first.numbers("draft_time")) if "draft_time" in first else 0.0
        rows.append(
            TraceRow(
                str(record.fields.get("question_id", record.fields.get("id", place))),
                str(record.fields.get("category", "")),
                num_tokens=round(sum(new)),
                method=method,
                tag="measured (sequential)",
                total_seconds=sum(wall),
            )
        )
    tau = tokens / passes
    draft = drafting / passes if drafting and tau > 1 else None
    totals = RunTotals(tokens, seconds, method, tokens_per_pass=max(tau, 1.0), draft_seconds=draft)
    return [totals], rows, _NOTES


def _passes(choice: Record, new: Sequence[float]) -> float:
    """Target passes of an answer: lengths that were kept one by one, steps that were counted, else a token each."""
    if "accept_lengths" in choice:  # Spec-Bench, all turns in one list
        return float(len(choice.numbers("accept_lengths")))
    if "acceptance_length" in choice:  # MMSpec, a list (or a mean) a turn
        lengths = choice.fields["acceptance_length"]
        if isinstance(lengths, list) and all(isinstance(turn, list) for turn in lengths):
            return float(sum(len(turn) for turn in lengths))
        return float(sum(choice.numbers("idxs")))
    return float(sum(new))


def read_pairs(records: Sequence[Record]) -> list[RunTotals]:
    """Return the totals of `results.jsonl` of MMSpec, which times plain decoding beside each speculative answer."""
    path, kept = records[0].path, [record for record in records if "error" not in record]
    if not kept:
        raise ValueError(f"{path}: every line is an error")
    sums: dict[str, float] = {
        name: sum(record.number(name) for record in kept)
        for name in ("naive_time", "spec_time", "naive_step_count", "spec_iteration_count", "generated_token_count")
    }
    tau = sums["generated_token_count"] / sums["spec_iteration_count"]
    plain = RunTotals(sums["naive_step_count"], sums["naive_time"], "plain", tokens_per_pass=1.0)
    return [plain, RunTotals(sums["generated_token_count"], sums["spec_time"], path.stem, tokens_per_pass=tau)]


def read_table(records: Sequence[Record]) -> list[RunTotals]:
    """Return the runs of a table copied from a paper, and plain decoding (a second a token where speedups are told).

        {"source": "where it was read", "plain": {"ms_per_token": 7.07},
         "runs": [{"method": "EAGLE-3", "gamma": 3, "tokens_per_pass": 2.79, "ms_per_token": 4.09}, ...]}

    A run may tell `speedup` in place of `ms_per_token`; then nothing is said of plain decoding.
    """
    token = records[0].optional("plain").maybe("ms_per_token")
    made = [RunTotals(1.0, 1.0 if token is None else token / 1000, "plain", tokens_per_pass=1.0)]
    for place, row in enumerate(records[0].records("runs")):
        told = row.number("speedup" if token is None else "ms_per_token")
        seconds = told / 1000 if token is not None else 1 / told if told else 0.0
        method, length = str(row.fields.get("method", f"run {place}")), row.number("tokens_per_pass")
        made.append(RunTotals(1.0, seconds, method, tokens_per_pass=length, gamma=row.maybe("gamma")))
    return made
