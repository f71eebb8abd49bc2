"""The two traces that a prediction needs, found from whatever somebody has: a run, a store, or one of the files."""

from pathlib import Path

from egptlib.traces._trace import Trace

TRACE, AGREEMENT = "trace.parquet", "agreement.parquet"


def find_traces(source: str | Path) -> tuple[Trace, Trace | None]:
    """Find what the drafter would have said along the target's answers, and the timed runs of the same prompts.

    Args:
        source: a run folder of notebook 07 or 08, a folder of hidden states, or a trace file of either. A run keeps
            what the drafter would have said beside its trace; where it does not, the extraction of the same prompts
            in its folder of runs is taken.

    Returns:
        The trace to replay, of the timed prompts alone where there are any; and the timed one, or None.

    Raises:
        FileNotFoundError: there is no trace.
        ValueError: the trace to replay is missing; the message says what makes it.
    """
    path = Path(source)
    path = path / TRACE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected a run, a folder of hidden states, or a trace")
    trace = Trace.load(path)
    if not trace.methods:
        _ = trace.match  # refuses a trace that cannot be replayed
        return trace, None
    prompts = {(row.sample, row.question) for row in trace.rows}
    if (kept_by_run := path.with_name(AGREEMENT)).is_file():
        told = Trace.load(kept_by_run)
        if other := next((row for row in told.rows if (row.sample, row.question) not in prompts), None):
            raise ValueError(f"{kept_by_run}: {other.sample}, {other.question!r}: not among those timed in {path}")
        return told, trace
    for beside in sorted(path.parent.parent.glob(f"shared/hidden_states/*/{TRACE}")):
        told = Trace.load(beside)
        limit = trace.max_new_tokens or told.max_new_tokens or 0
        if (told.path, told.pair) != ("target", trace.pair) or limit > (told.max_new_tokens or 0):
            continue
        kept = [i for i, row in enumerate(told.rows) if (row.sample, row.question) in prompts]
        if len(kept) == len(prompts):
            return told.select(kept).cut(limit), trace
    raise ValueError(
        f"{path}: holds what was accepted, not what the drafter would have said elsewhere, and no extraction of these "
        f"prompts along the target's path is beside it in {path.parent.parent}; `egptlib run 04` there makes one"
    )
