"""Logs of speculative decoding that others' programs write, opened as totals (and as a trace where they hold enough).

| kind | written by | read in |
| --- | --- | --- |
| `vllm-log` | vLLM's server: lines `SpecDecoding metrics`, or `Avg generation throughput` | vllm ee4ceaa, metrics.py |
| `vllm-metrics` | vLLM's /metrics (Prometheus text) | vllm ee4ceaa, metrics.py |
| `serving` | `vllm bench serve`, `sglang.bench_serving`: JSON or what they print | vllm 009e6d4, sglang 0033168 |
| `specforge` | `bench_eagle3.py` and `bench_model_speedup.py` of SpecForge | SpecForge 1d66672, 260057f |
| `spec-bench` | Spec-Bench's and MMSpec's answers, one JSON a question | Spec-Bench 70f8b28, MMSpec-fyf 167d04c |
| `pairs` | MMSpec's `results.jsonl`, both times in each line | Senmo996/MMSpec f0557a7 |
| `table` | a table copied from a paper or an issue, as JSON | here |
| `trace` | notebooks 06 to 08 of this repository | here |
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from egptlib.metrics import RunTotals, Waterfall, explain, fit_draft_cost
from egptlib.recorded._logs_answers import read_answers, read_pairs, read_table
from egptlib.recorded._logs_servers import (
    read_metrics,
    read_printed,
    read_server_log,
    read_serving,
    read_specforge,
    read_speedup_lines,
)
from egptlib.recorded._recorded import Record
from egptlib.traces import Trace, TraceRow, trace_totals


@dataclass(frozen=True)
class DecodingLog:
    """What a log tells.

    Attributes:
        kind: see the module.
        path: the file.
        runs: speculative runs.
        plain: runs of plain decoding in it.
        answers: one row an answer, where it holds them.
        notes: what one has to know before quoting a figure of it.
    """

    kind: str
    path: Path
    runs: tuple[RunTotals, ...]
    plain: tuple[RunTotals, ...]
    answers: tuple[TraceRow, ...] = ()
    notes: tuple[str, ...] = ()

    def trace(self) -> Trace:
        """Return its answers as a trace: lengths, rounds and seconds.

        Raises:
            ValueError: the log holds totals alone.
        """
        if not self.answers:
            raise ValueError(f"{self.path}: {self.kind} holds totals, not single answers, so no trace can be made")
        return Trace(list(self.answers), path="free", source=str(self.path))


def open_log(path: str | Path) -> DecodingLog:
    """Open a log; its content tells the kind.

    Raises:
        ValueError: none of the kinds, or a field is missing or not of its kind (file, line and field named).
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "trace.parquet"
    try:
        return _open(path)
    except ValueError as error:  # a total out of range does not know its file
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}") from None


def _open(path: Path) -> DecodingLog:
    data = path.read_bytes()
    if data.startswith(b"PAR1"):
        totals = trace_totals(Trace.load(path))
        return _log("trace", path, totals)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no known log of speculative decoding: not text and no trace") from error
    records = _json_records(path, text)
    if records is None:
        for kind, marks, read in (
            ("vllm-metrics", ("vllm:generation_tokens",), read_metrics),
            ("vllm-log", ("SpecDecoding metrics:", "Avg generation throughput:"), read_server_log),
            ("serving", ("Serving Benchmark Result",), read_printed),
        ):
            if any(mark in text for mark in marks):
                totals, notes = read(path, text)
                return _log(kind, path, totals, notes=notes)
        raise ValueError(f"{path}: no known log of speculative decoding; docs/explain.md lists them")
    for name, has, read_records in (
        ("table", lambda r: "runs" in r, read_table),
        ("serving", lambda r: "total_output_tokens" in r and "duration" in r, read_serving),
        ("specforge", lambda r: "acc_length" in r and "throughput" in r, read_speedup_lines),
        ("specforge", _is_specforge, read_specforge),
    ):
        if records and has(records[0]):
            return _log(name, path, read_records(records))
    if records and "choices" in records[0]:
        totals, answers, notes = read_answers(records)
        return _log("spec-bench", path, totals, answers, notes)
    if records and "naive_time" in records[0]:
        return _log("pairs", path, read_pairs(records))
    raise ValueError(f"{path}: no known log of speculative decoding; docs/explain.md lists them")


def explain_log(
    log: DecodingLog,
    baseline: DecodingLog | None = None,
    *,
    paper: tuple[float, float] | None = None,
    draft_cost: float | None = None,
    gamma: float | None = None,
) -> list[Waterfall]:
    """Take every speculative run of a log apart, against plain decoding of the same group and batch.

    Args:
        baseline: where plain decoding is, if not in the log itself.
        paper, draft_cost: as of `metrics.explain`; left out, the draft cost is fitted to runs at several gammas.
        gamma: draft tokens a pass, where the log does not tell.

    Raises:
        ValueError: no speculative run, or no plain decoding to hold it against; else as `metrics.explain`.
    """
    if not log.runs:
        raise ValueError(f"{log.path}: holds no speculative run")
    plain = log.plain + (baseline.plain if baseline else ())
    if not plain:
        raise ValueError(
            f"{log.path}: {log.kind} holds no plain decoding; --baseline names a log of it (same prompts, same server)"
        )
    found = []
    for run in log.runs:
        same = _plain_of(run, plain)
        if run.gamma is None and gamma is not None:
            run = replace(run, gamma=float(gamma))
        alone = None
        if run.batch > 1:
            single = [r for r in log.runs if _key(r) == _key(run) and r.batch == 1]
            beside = [p for p in plain if p.group == same.group and p.batch == 1]
            alone = (single[0], beside[0]) if single and beside else None
        cost = draft_cost
        if cost is None:
            like = [r for r in log.runs if (r.group, r.batch, r.draft_seconds) == (run.group, run.batch, None)]
            fitted = fit_draft_cost(like, same) if len(like) > 1 and not _is_tree(like) else None
            cost = fitted[0] if fitted else None
        found.append(explain(run, same, paper=paper, draft_cost=cost, alone=alone))
    return found


def _log(
    kind: str,
    path: Path,
    totals: Sequence[RunTotals],
    answers: Sequence[TraceRow] = (),
    notes: Sequence[str] = (),
) -> DecodingLog:
    runs = tuple(t for t in totals if t.tokens_per_pass is not None and not _is_plain(t))
    plain = tuple(t for t in totals if _is_plain(t))
    return DecodingLog(kind, path, runs, plain, tuple(answers), tuple(notes))


def _is_plain(totals: RunTotals) -> bool:
    return totals.tokens_per_pass == 1 and not totals.gamma


def _is_tree(runs: Sequence[RunTotals]) -> bool:
    """Trees of one depth may differ in width, which gamma does not tell."""
    return any("topk" in run.method and "topk 1," not in run.method for run in runs)


def _plain_of(run: RunTotals, plain: Sequence[RunTotals]) -> RunTotals:
    for fits in (
        [p for p in plain if (p.group, p.batch) == (run.group, run.batch)],
        [p for p in plain if p.group == run.group],
        list(plain) if len({p.group for p in plain}) == 1 else [],
    ):
        if fits:
            return fits[0]
    raise ValueError(f"run {run.method!r}: no plain decoding of {run.group!r}, only of {[p.group for p in plain]}")


def _key(run: RunTotals) -> tuple[Any, ...]:
    return run.group, run.gamma, run.method


def _is_specforge(record: Record) -> bool:
    lists = [value for value in record.fields.values() if isinstance(value, list)]
    return any(lists) and all(isinstance(r, dict) and "metrics" in r for value in lists for r in value)


def _json_records(path: Path, text: str) -> list[Record] | None:
    """The objects of a JSON document, or of one JSON a line; None where the text is neither."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        whole = json.loads(text)
        records = whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        try:
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: neither JSON nor one JSON a line: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: its JSON is nested too deeply") from error
    return [Record(path, f"record {place}", record) for place, record in enumerate(records)]
