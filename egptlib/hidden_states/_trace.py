"""The trace beside the chunks: what replay needs of a finished folder, a thousandth of its size."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from egptlib.hidden_states._index import read_index
from egptlib.hidden_states._reader import HiddenStates
from egptlib.traces import Trace, count_rows, trace_from_hidden_states

if TYPE_CHECKING:
    from egptlib.models import Pair

TRACE = "trace.parquet"


def write_trace(
    folder: str | os.PathLike[str], pair: Pair | None = None, out: str | os.PathLike[str] | None = None
) -> Path:
    """Write the trace of stored samples, each checked against its checksum; leave one that is complete.

    Args:
        folder: a chunk folder, alone or joined from shards.
        pair: what the samples were extracted with, whose name, device, precision, versions and end tokens are noted.
            None: the name alone is known, from the folder, and no token is known to end an answer.
        out: where to; None: `folder/trace.parquet`.

    Raises:
        ValueError: the folder is damaged, or holds no token ids (the earlier writer's).
    """
    folder = Path(folder)
    path = folder / TRACE if out is None else Path(out)
    if count_rows(path) == read_index(folder).get("num_samples", -1):
        return path
    states = HiddenStates.open(folder)
    header = {"pair": states.config.get("pair", "")}
    if pair is not None:
        from egptlib.models import describe_pair

        header = describe_pair(pair) | {"end_token_ids": tuple(sorted(pair.target.eos_token_ids))}
    trace = trace_from_hidden_states(
        (sample for batch in states.stream(64) for sample in batch),
        path=states.config.get("path", "target"),
        # Beside its chunks it names no folder: the same samples give the same bytes wherever they lie.
        source="" if out is None else str(folder),
        max_new_tokens=states.config.get("max_new_tokens"),
        **header,
    )
    trace.save(path)
    return path


def join_traces(folder: Path, num_shards: int) -> None:
    """Write the trace of a folder that was joined from shards, out of theirs; a shard without samples has none."""
    paths = [folder / "shards" / f"{number:03d}" / TRACE for number in range(num_shards)]
    traces = [Trace.load(path) for path in paths if path.is_file()]
    if traces:
        replace(Trace.join(traces), source="").save(folder / TRACE)
