"""What the result files of the earlier experiments have of a trace."""

from typing import Any

from egptlib.metrics import Tag
from egptlib.recorded._recorded import Recorded, Row
from egptlib.traces import Trace, TraceRow


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
