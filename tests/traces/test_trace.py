"""Traces: the parquet round trip, what they say, and what is refused."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from egptlib._clock import Event
from egptlib.metrics import replay
from egptlib.traces import Trace, TraceRow, trace_from_generations, trace_from_hidden_states, trace_from_runs

ROWS = [
    TraceRow("a", "what?", [5, 6, 7, 2], [5, 9, 7, 2], [0.5, 0.25, 1.0, 0.75], [0.5, 0.5, 1.0, 1.0]),
    TraceRow(
        "b", "where?", [4, 2], [4, 4], [1.0, 0.0], [0.25, 0.5], target_stages={"prefill": 0.25}, total_seconds=1.5
    ),
]
HEADER = {"pair": "mini", "device": "cpu", "precision": "float32", "versions": {"torch": "2"}, "source": "x.json"}
TRACE = Trace(ROWS, end_token_ids=(2,), **HEADER)  # type: ignore[arg-type]


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    TRACE.save(tmp_path / "t.parquet")
    assert Trace.load(tmp_path / "t.parquet") == TRACE
    replace(TRACE, source="").save(tmp_path / "beside.parquet")
    assert Trace.load(tmp_path / "beside.parquet") == replace(TRACE, source=str(tmp_path / "beside.parquet"))


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
        (TraceRow("a", "", num_tokens=3, overlap=[0.5]), "overlap has 1 values for 3"),
        (TraceRow("a", "", [1, 2], [1]), "drafter_ids has 1 values for 2"),
    ],
)
def test_rows_that_do_not_fit(row: TraceRow, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trace([row])


def test_an_answer_has_tokens() -> None:
    with pytest.raises(ValueError, match="expected target_ids or num_tokens"):
        TraceRow("a", "")
    with pytest.raises(ValueError, match="num_tokens is 3 for 2 ids"):
        TraceRow("a", "", [1, 2], num_tokens=3)


def test_ids_are_whole_numbers_of_any_kind(tmp_path: Path) -> None:
    """5.7 was stored as 5; numpy's numbers in the header and arrays of ids could not be stored at all."""
    kinds: list[Any] = [np.array([5, 6]), torch.tensor([5, 6]), [np.int64(5), 6]]
    for ids in kinds:
        row: Any = TraceRow("a", "", ids, ids)
        told: Any = {"end_token_ids": frozenset([np.int64(6)]), "max_new_tokens": np.int64(4)}
        Trace([row], **told).save(tmp_path / "trace.parquet")
        found = Trace.load(tmp_path / "trace.parquet")
        assert (found.rows, found.end_token_ids, found.max_new_tokens) == ([TraceRow("a", "", [5, 6], [5, 6])], (6,), 4)
    wrong: Any = [5.7]
    halves: list[Any] = [
        {"rounds": [(2, 1.5, 2)]},
        {"events": [Event("target", "step", 0.0, 1.0, {"drafted": 1.5})]},
    ]
    for more in halves:  # pyarrow cuts such numbers without a word
        with pytest.raises(ValueError, match=r"trace: a: .*: expected a list of whole numbers, found .*1\.5"):
            Trace([TraceRow("a", "", [5, 6], **more)]).save(tmp_path / "halves.parquet")
    with pytest.raises(ValueError, match=r"num_tokens: expected a whole number, found 2\.5"):
        TraceRow("a", "", num_tokens=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="trace: a: target_ids: expected a list of whole numbers"):
        TraceRow("a", "", wrong)
    with pytest.raises(ValueError, match=r"row 0 \(a\): drafter_ids without target_ids"):
        Trace([TraceRow("a", "", num_tokens=1, drafter_ids=[5])])


def test_only_what_was_recorded_can_be_cut_off() -> None:
    trace = Trace([TraceRow("a", "", [5, 6, 7], [5, 6, 7])], max_new_tokens=3)
    assert trace.cut(2).rows[0].target_ids == [5, 6] and trace.cut(3).max_new_tokens == 3
    for limit, line in ((-1, "at least 1"), (0, "at least 1"), (4, "at most 3"), (1.5, "whole number")):
        with pytest.raises(ValueError, match=f"limit: expected (a )?{line}"):
            trace.cut(limit)  # type: ignore[arg-type]


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


def test_no_flipped_bit_gives_other_values(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    TRACE.save(path)
    whole = path.read_bytes()
    for bit in range(5, 8 * len(whole), 397):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"t\.parquet"):
            Trace.load(path)


def rewritten(path: Path, header: dict[str, Any], columns: dict[str, Any] | None = None, digest: bool = True) -> None:
    """A trace by another writer: header fields and columns changed, its digest right."""
    TRACE.save(path)
    table = pq.read_table(path)
    told = json.loads(table.schema.metadata[b"egptlib_trace"]) | header
    table = table.slice(0, 1)
    for name, column in (columns or {}).items():
        place = table.schema.get_field_index(name)
        table = table.remove_column(place) if column is None else table.set_column(place, name, column)
    table = table.replace_schema_metadata({b"egptlib_trace": json.dumps(told).encode()})
    none = b"sha256:" + b"0" * 64
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        if digest:
            writer.add_key_value_metadata({b"egptlib_sha256": none})
    data = path.read_bytes()
    path.write_bytes(data.replace(none, b"sha256:" + hashlib.sha256(data).hexdigest().encode()))


@pytest.mark.parametrize(("version", "digest"), [(1, False), (2, True)])
def test_a_trace_of_an_earlier_version_is_read(version: int, digest: bool, tmp_path: Path) -> None:
    rewritten(tmp_path / "t.parquet", {"format": version}, {"branches": None}, digest)
    assert Trace.load(tmp_path / "t.parquet") == replace(TRACE, rows=ROWS[:1])
    rewritten(tmp_path / "t.parquet", {}, {"branches": None})
    with pytest.raises(ValueError, match="expected columns"):
        Trace.load(tmp_path / "t.parquet")
    rewritten(tmp_path / "t.parquet", {}, digest=False)
    with pytest.raises(ValueError, match="damaged: other bytes than were written"):
        Trace.load(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        ({"format": 4}, {}, "not a trace of format 3"),
        ({"pair": 7}, {}, "field 'pair' is 7"),
        ({"trees": []}, {}, "field 'trees' is []"),
        ({"end_token_ids": "2"}, {}, "field 'end_token_ids' is '2'"),
        ({"colour": "red"}, {}, "unknown field 'colour'"),
        ({"path": "up"}, {}, "path: expected one of"),
        ({}, {"sample": pa.array([5])}, "column 'sample' is int64; expected string"),
        ({}, {"target_ids": pa.array([["5"]])}, "column 'target_ids' is list"),
        ({}, {"target_ids": pa.array([None], pa.list_(pa.int32()))}, "t.parquet"),
        ({}, {"overlap": pa.array([[0.5]], pa.list_(pa.float32()))}, "overlap has 1 values for 4 tokens"),
    ],
)
def test_wrong_types_with_a_right_digest(tmp_path: Path, header: dict, columns: dict, message: str) -> None:
    rewritten(tmp_path / "t.parquet", header, columns)
    with pytest.raises(ValueError, match=r"t\.parquet") as caught:
        Trace.load(tmp_path / "t.parquet")
    assert message in str(caught.value)


def test_a_text_that_has_no_bytes_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t\.parquet: a row cannot be stored"):
        Trace([TraceRow("caf\ud800", "", [1])]).save(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: a row cannot be stored"):
        Trace([TraceRow("a", "", [2**40])]).save(tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


def sample(**others: Any) -> SimpleNamespace:
    """What the store gives: two positions."""
    tensors = {
        "token_ids": torch.tensor([5, 2], dtype=torch.int32),
        "drafter_top1": torch.tensor([5, 3], dtype=torch.int32),
        "overlap": torch.tensor([0.5, 0.25]),
        "drafter_confidence": None,
        "metadata": {"scene": "s1", "question": "q"},
    }
    return SimpleNamespace(**tensors | others)


def test_from_hidden_states() -> None:
    trace = trace_from_hidden_states([sample()], pair="mini")
    assert trace == Trace([TraceRow("s1", "q", [5, 2], [5, 3], [0.5, 0.25])], pair="mini")
    metadata = {"scene": "s1", "question": "q", "target_ids": [5, 2], "drafter_ids": [5, 3, 7]}
    free = trace_from_hidden_states([sample(metadata=metadata)], path="free")
    assert free == Trace([TraceRow("s1", "q", [5, 2], [5, 3, 7])], path="free")
    with pytest.raises(ValueError, match="no token ids"):
        trace_from_hidden_states([sample(token_ids=None)])


def generation(shift: float = 0.0, beside: bool = False) -> SimpleNamespace:
    """Two passes; with `beside` the drafter reads while the target does. The clock starts anywhere."""
    start = 1.0 if beside else 2.0
    events = [
        ("target", "prefill", 1.0, 2.0, {}),
        ("drafter", "prefill", start, start + 0.25, {}),
        ("drafter", "draft", 2.25, 2.5, {"drafted": 2, "tokens": [6, 7]}),
        ("target", "verify", 2.5, 3.0, {"drafted": 2, "accepted": 1}),
        ("target", "step", 3.0, 3.5, {"drafted": 0, "accepted": 0}),
    ]
    return SimpleNamespace(
        token_ids=torch.tensor([5, 6, 8, 2]),
        rounds=[SimpleNamespace(drafted=2, accepted=1, gained=2), SimpleNamespace(drafted=0, accepted=0, gained=1)],
        events=[SimpleNamespace(lane=n, stage=s, start=a + shift, end=b + shift, info=i) for n, s, a, b, i in events],
    )


def test_from_generations(tmp_path: Path) -> None:
    made = [generation(), generation(100.0, beside=True)]
    trace = trace_from_generations(made, [("a", "q"), (SimpleNamespace(id="b"), "r")], "gamma 2", pair="mini")
    one, two = trace.rows
    assert (one.sample, one.question, two.sample, two.question) == ("a", "q", "b", "r")
    assert one.rounds == [(2, 1, 2), (0, 0, 1)]
    assert one.total_seconds == 2.5
    assert one.target_stages == {"prefill": 1.0, "verify": 0.5, "step": 0.5}
    assert (one.tag, two.tag) == ("measured (sequential)", "measured (overlapped)")
    assert two.events[0].start == 0.0 and two.events[-1].end == 2.5
    assert dict(one.events[2].info) == {"drafted": 2}
    trace.save(tmp_path / "t.parquet")
    assert Trace.load(tmp_path / "t.parquet").rows == trace.rows
    with pytest.raises(ValueError):
        trace_from_generations(made, [], "gamma 2")


def test_from_runs_of_several_methods() -> None:
    plain = SimpleNamespace(seconds=[3.0], token_ids=[[5, 6, 8, 2]], generations=[])
    fast = SimpleNamespace(seconds=[2.75], token_ids=[[5, 6, 8, 2]], generations=[generation()])
    trace = trace_from_runs({"plain": plain, "gamma 2": fast}, [("a", "q")])
    assert trace.methods == ["plain", "gamma 2"]
    assert [row.total_seconds for row in trace.rows] == [3.0, 2.75]  # the whole call, not from event to event
    assert trace.method("plain").rows[0].events == []
    with pytest.raises(ValueError, match="no method 'slow'; timed were plain, gamma 2"):
        trace.method("slow")


def test_join() -> None:
    other = Trace(ROWS[1:], pair="mini", device="another", precision="float32", end_token_ids=(2,))
    assert Trace.join([TRACE, other]).rows == [*ROWS, ROWS[1]]
    with pytest.raises(ValueError, match="pair is 'real'"):
        Trace.join([TRACE, Trace(ROWS, pair="real", precision="float32", end_token_ids=(2,))])
    with pytest.raises(ValueError, match="at least one"):
        Trace.join([])
