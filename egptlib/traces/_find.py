"""The two traces that a prediction needs, found from whatever somebody has: a run, a store, or one of the files."""

from pathlib import Path

from egptlib.traces._trace import Trace

TRACE = "trace.parquet"


def find_traces(source: str | Path) -> tuple[Trace, Trace | None]:
    """Find what the drafter would have said along the target's answers, and the timed runs of the same prompts.

    Args:
        source: a run folder of notebooks 06 to 08 (the folder of runs keeps the extraction beside it), a folder of
            hidden states, or a trace file of either.

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
