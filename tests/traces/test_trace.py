"""Traces: the parquet round trip, what they say, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from egptlib.metrics import replay
from egptlib.traces import Trace, TraceRow, trace_from_generations, trace_from_hidden_states

ROWS = [
    TraceRow("a", "what?", [5, 6, 7, 2], [5, 9, 7, 2], [0.5, 0.25, 1.0, 0.75], [0.5, 0.5, 1.0, 1.0]),
    TraceRow(
        "b", "where?", [4, 2], [4, 4], [1.0, 0.0], [0.25, 0.5], target_stages={"prefill": 0.25}, total_seconds=1.5
    ),
]
TRACE = Trace(ROWS, pair="mini", device="cpu", precision="float32", versions={"torch": "2"}, end_token_ids=(2,))


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    TRACE.save(tmp_path / "t.parquet")
    assert Trace.load(tmp_path / "t.parquet") == TRACE


def test_arrays_are_padded_to_the_longest_answer() -> None:
    assert TRACE.lengths.tolist() == [4, 2]
    assert TRACE.match.tolist() == [[True, False, True, True], [True, False, False, False]]
    assert TRACE.drafter_ends.tolist() == [[False, False, False, True], [False] * 4]
    assert TRACE.values("overlap").tolist() == [[0.5, 0.25, 1.0, 0.75], [1.0, 0.0, 0.0, 0.0]]
    assert np.isnan(TRACE.stage_seconds("target", "prefill")).tolist() == [True, False]
    assert TRACE.select([1]).rows == [ROWS[1]]
    assert replay(TRACE.match, TRACE.lengths, [2]).rounds(0, 2) == [(2, 0, 1), (2, 2, 2)]


def test_free_answers_are_not_replayed() -> None:
    free = Trace([TraceRow("a", "", [5, 6], [5])], path="free")
    with pytest.raises(ValueError, match="target's path"):
        _ = free.match


def test_what_was_not_recorded_is_said() -> None:
    bare = Trace([TraceRow("a", "", [5, 6])])
    with pytest.raises(ValueError, match="not recorded"):
        _ = bare.match
    with pytest.raises(ValueError, match="confidence was not recorded"):
        bare.values("confidence")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (TraceRow("a", "", []), "target_ids is empty"),
        (TraceRow("a", "", [1, 2], [1]), "drafter_ids has 1 values for 2"),
    ],
)
def test_rows_that_do_not_fit(row: TraceRow, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trace([row])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    TRACE.save(tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"cut\.parquet: not a readable parquet"):
        Trace.load(tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet: not a trace"):
        Trace.load(tmp_path / "other.parquet")
    with pytest.raises(FileNotFoundError):
        Trace.load(tmp_path / "none.parquet")


def test_from_hidden_states() -> None:
    sample = SimpleNamespace(
        token_ids=torch.tensor([5, 2], dtype=torch.int32),
        drafter_top1=torch.tensor([5, 3], dtype=torch.int32),
        overlap=torch.tensor([0.5, 0.25]),
        metadata={"scene": "s1", "question": "q"},
    )
    trace = trace_from_hidden_states([sample], pair="mini")
    assert trace == Trace([TraceRow("s1", "q", [5, 2], [5, 3], [0.5, 0.25])], pair="mini")
    with pytest.raises(ValueError, match="no token ids"):
        trace_from_hidden_states([SimpleNamespace(token_ids=None, drafter_top1=None, metadata={})])


def test_from_generations() -> None:
    event = lambda lane, stage, start, end: SimpleNamespace(lane=lane, stage=stage, start=start, end=end)  # noqa: E731
    generation = SimpleNamespace(
        token_ids=torch.tensor([5, 6, 2]),
        rounds=[SimpleNamespace(drafted=2, accepted=1)],
        events=[
            event("target", "prefill", 1.0, 2.0),
            event("drafter", "draft", 2.0, 2.5),
            event("target", "verify", 2.5, 3.0),
        ],
    )
    (row,) = trace_from_generations([generation], ["a"], ["q"], "gamma 2").rows
    assert row.rounds == [2, 1]
    assert row.total_seconds == 2.0
    assert row.target_stages == {"prefill": 1.0, "verify": 0.5}
    with pytest.raises(ValueError):
        trace_from_generations([generation], [], [], "gamma 2")
