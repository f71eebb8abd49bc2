"""Damage, interrupts, newer versions, bad samples: a store tells, refuses or mends; it never takes them for right."""

import json
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import egptlib
from egptlib._sealed import write_sealed
from egptlib.cli._app import app
from egptlib.hidden_states import Damage, Head, HiddenStates, HiddenStateWriter, check_store, repair_store, write_trace
from egptlib.hidden_states._format import chunk_checksum, file_header
from egptlib.hidden_states._index import join_index, read_index, read_plan
from tests.hidden_states.test_store import assert_same, files, make_sample, write


def check(folder: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["check", str(folder), *options])


def only_chunk(folder: Path) -> Path:
    (path,) = (folder / "chunks").iterdir()
    return path


def exchange(rows: bytearray, size: int) -> None:
    rows[:size], rows[size : 2 * size] = rows[size : 2 * size], rows[:size]


def exchange_words(rows: bytearray, size: int) -> None:
    rows[:8], rows[size : size + 8] = rows[size : size + 8], rows[:8]


def packed(text: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(zlib.compress(text)), dtype=torch.uint8)


def move_on(rows: bytearray, size: int) -> None:
    rows[:] = rows[size:] + rows[:size]


@pytest.mark.parametrize("harm", [exchange, exchange_words, move_on])
def test_bytes_that_moved_are_found_named_and_not_mended_away(
    tmp_path: Path, harm: Callable[[bytearray, int], None]
) -> None:
    samples = [make_sample(i, 4) for i in range(6)]
    write(tmp_path, samples)
    path, number = only_chunk(tmp_path), 3
    data = bytearray(path.read_bytes())
    head = int.from_bytes(data[:8], "little")
    start = 8 + head + json.loads(data[8 : 8 + head])["target_hidden"]["data_offsets"][0] + number * 4 * 32
    rows = data[start : start + 4 * 32]
    harm(rows, 32)
    assert rows != data[start : start + 4 * 32]
    data[start : start + 4 * 32] = rows
    path.write_bytes(data)
    index = (tmp_path / "index.json").read_bytes()
    with pytest.raises(ValueError, match=r"sample 3 of this file \(scene 'seq_0/000003'\) has wrong bytes"):
        HiddenStates.open(tmp_path)[number]
    (problem,) = check_store(tmp_path, deep=True)
    assert problem.damage is Damage.BYTES and problem.endswith("unreadable samples: 3")
    assert repair_store(tmp_path) == ("", 0)
    result = check(tmp_path, "--deep", "--repair")
    assert result.exit_code == 1 and "unreadable samples: 3" in result.output
    assert (tmp_path / "index.json").read_bytes() == index


def test_version_2_is_read_checked_and_continued(tmp_path: Path) -> None:
    """A folder that the version before this one wrote."""
    folder = tmp_path / "store"
    shutil.copytree(Path(__file__).parent / "version_2", folder)
    samples = [make_sample(i, 2 + i) for i in range(8)]
    rounded = [
        {
            name: value.to(torch.bfloat16) if torch.is_tensor(value) and value.ndim == 2 else value
            for name, value in s.items()
        }
        for s in samples
    ]
    for sample in rounded:
        for name in ("overlap", "drafter_confidence", "target_entropy"):
            sample[name] = sample[name].to(torch.float16)
    assert check_store(folder, deep=True) == []
    assert_same(HiddenStates.open(folder), rounded[:6])
    path = folder / "chunks" / "chunk_000000_000004.safetensors"
    whole = path.read_bytes()
    for place in range(1000, len(whole) - 200, 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=path.name):
            list(HiddenStates.open(folder))
    path.write_bytes(whole)
    with HiddenStateWriter(folder, {"pair": "test"}, chunk_size=4, dtype="bfloat16") as writer:
        for sample in samples[6:]:
            writer.add(**sample)
    assert read_index(folder)["version"] == 3 and path.read_bytes() == whole
    assert check_store(folder, deep=True) == []
    assert_same(HiddenStates.open(folder), rounded)


def test_a_newer_version_is_refused_and_nothing_of_it_changes(tmp_path: Path) -> None:
    write(tmp_path, [make_sample(i) for i in range(3)])
    index = json.loads((tmp_path / "index.json").read_text())
    write_sealed(tmp_path / "index.json", index | {"version": 4, "annotations": {"a": 1}})
    before = files(tmp_path)
    message = r"index\.json: .* version 4; expected .* version 3; a newer egptlib wrote it"
    with pytest.raises(ValueError, match=message):
        HiddenStates.open(tmp_path)
    with pytest.raises(ValueError, match=message):
        HiddenStateWriter(tmp_path)
    assert [problem.damage for problem in check_store(tmp_path)] == [Damage.FOREIGN]
    assert check(tmp_path, "--repair").exit_code == 1
    assert files(tmp_path) == before


def test_a_lost_last_chunk_is_told_and_made_again(tmp_path: Path) -> None:
    samples = [make_sample(i) for i in range(7)]
    write(tmp_path, samples, chunk_size=3)
    whole = files(tmp_path)
    (tmp_path / "chunks" / "chunk_000006_000007.safetensors").unlink()
    result = check(tmp_path, "--repair")
    assert result.exit_code == 1
    assert "samples 6 to 6 are lost with their files (1 samples); 6 are left" in result.output
    assert (tmp_path / "index.replaced-1.json").read_bytes() == whole["index.json"]
    assert check(tmp_path, "--deep").exit_code == 0
    assert_same(HiddenStates.open(tmp_path), samples[:6])
    write(tmp_path, samples[6:], chunk_size=3)
    assert files(tmp_path) == whole | {"index.replaced-1.json": whole["index.json"]}
    (tmp_path / "chunks" / "chunk_000000_000003.safetensors").unlink()
    with pytest.raises(ValueError, match="not only at the end"):
        repair_store(tmp_path)


def test_a_damaged_index_that_knew_of_more_samples_says_so(tmp_path: Path) -> None:
    write(tmp_path, [make_sample(i) for i in range(7)], chunk_size=3)
    index = tmp_path / "index.json"
    index.write_bytes(index.read_bytes().replace(b'"checksum": "', b'"checksum": "0'))
    (tmp_path / "chunks" / "chunk_000006_000007.safetensors").unlink()
    result = check(tmp_path, "--repair")
    assert result.exit_code == 1 and "1 samples are lost" in result.output


def test_each_file_that_is_missing_or_harmed_is_named_by_itself(tmp_path: Path) -> None:
    with HiddenStateWriter(tmp_path, chunk_size=2, commit_every=2) as writer:
        writer.add_heads(target=Head(torch.eye(8), torch.ones(8), 1e-6))
        for number in range(6):
            writer.add(**make_sample(number))
    write_trace(tmp_path)
    assert check_store(tmp_path, deep=True) == []
    gone, cut, flipped = (tmp_path / "chunks" / f"chunk_{i:06d}_{i + 2:06d}.safetensors" for i in (0, 2, 4))
    head, trace = tmp_path / "target_head.safetensors", tmp_path / "trace.parquet"
    size = cut.stat().st_size
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    for path in (flipped, head, trace):
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
    wrong = "damaged: another SHA-256 than index.json says"
    *told, last = check_store(tmp_path, deep=True)
    assert told == [
        f"{gone}: listed in index.json, but not there",
        f"{cut}: {size - 1} bytes, index.json says {size}",
        f"{flipped}: {wrong}; none of its samples can be read",
        f"{head}: {wrong}",
    ]
    assert [problem.damage for problem in told] == [Damage.MISSING, *[Damage.BYTES] * 3] and last.damage == Damage.BYTES
    assert last.startswith(str(trace)) and last.endswith(f"; `egptlib trace {tmp_path}` makes it anew")
    assert check_store(tmp_path) == told[:2]


def test_an_interrupt_at_any_line_doubles_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib._paths._sync", lambda path: None)  # a disk's time, 40 times over
    writer_module = str(Path(egptlib.__file__).parent / "hidden_states" / "_writer.py")
    samples = [make_sample(i, 2, (2, 2)) for i in range(5)]
    for sample in samples:
        sample["metadata"] = {"scene": str(sample["metadata"]["scene"]), "question": "q"}

    def run(folder: Path, stop_at: int) -> tuple[int, int]:
        passed = safe = 0

        def follow(frame: Any, event: str, argument: Any) -> Any:
            nonlocal passed
            if frame.f_code.co_filename != writer_module:
                return None
            if event == "line":
                passed += 1
                if passed == stop_at:
                    raise KeyboardInterrupt
            return follow

        before = sys.gettrace()
        try:
            with HiddenStateWriter(folder, commit_every=2, chunk_size=4) as writer:
                sys.settrace(follow)
                for sample in samples:
                    writer.add(**sample)
                    safe = writer.num_committed
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        return passed, safe

    lines, _ = run(tmp_path / "whole", -1)
    assert lines > 100
    whole = files(tmp_path / "whole")
    for stop_at in range(1, lines, 7):
        folder = tmp_path / str(stop_at)
        _, safe = run(folder, stop_at)
        assert not [path for path in folder.rglob(".*") if path.is_file()], "a temporary file"
        if safe:
            assert len(HiddenStates.open(folder)) >= safe
        with HiddenStateWriter(folder, commit_every=2, chunk_size=4) as writer:
            for sample in samples:
                if (sample["metadata"]["scene"], "q") not in writer:
                    writer.add(**sample)
        assert files(folder) == whole, stop_at
        shutil.rmtree(folder)


def test_a_sample_that_is_there_twice_is_named(tmp_path: Path) -> None:
    with HiddenStateWriter(tmp_path, commit_every=2) as writer:
        for number in (0, 1, 1, 2):
            writer.add(**make_sample(number))
            writer._keys.clear()
    (problem,) = check_store(tmp_path, deep=True)
    assert problem.damage is Damage.DOUBLED and "samples 1 and 2 are both scene 'seq_0/000001'" in problem
    assert check_store(tmp_path) == []


@pytest.mark.parametrize("value", ["caf\ud800", {1, 2}, float("nan"), "x" * 2**20])
def test_metadata_that_cannot_be_stored_is_refused_by_name_and_the_others_are_kept(tmp_path: Path, value: Any) -> None:
    samples = [make_sample(i) for i in range(4)]
    bad = samples[2] | {"metadata": {"scene": "the bad one", "question": "q", "note": value}}
    with HiddenStateWriter(tmp_path) as writer:
        for sample in (*samples[:2], bad, *samples[3:]):
            try:
                writer.add(**sample)
            except ValueError as error:
                assert "the bad one" in str(error) and sample is bad
    assert_same(HiddenStates.open(tmp_path), [*samples[:2], *samples[3:]])


def test_shards_are_listed_one_after_another_and_only_those_of_one_configuration(tmp_path: Path) -> None:
    samples, parts = [make_sample(i) for i in range(5)], [(0, 0), (0, 3), (3, 5)]
    for number, (first, last) in enumerate(parts):  # all samples of the first shard failed
        with HiddenStateWriter(tmp_path / f"shards/{number:03d}", {"path": "target"}, chunk_size=2) as writer:
            writer.add_heads(target=Head(torch.eye(8), torch.ones(8), 1e-6))
            for sample in samples[first:last]:
                writer.add(**sample)
    plan: dict[str, Any] = {"num_shards": 3, "num_scenes": 9, "bounds": [0, 4, 6, 9]}
    write_sealed(tmp_path / "shards.json", plan)
    assert join_index(tmp_path) == 5 and check_store(tmp_path, deep=True) == []
    assert_same(HiddenStates.open(tmp_path), samples)
    shutil.rmtree(tmp_path / "shards/002")
    write(tmp_path / "shards/002", samples[3:], config={"path": "free"})
    with pytest.raises(ValueError, match=r"shards/002: another configuration than the shards before it"):
        join_index(tmp_path)
    wrong: list[dict[str, Any]] = [{"num_shards": 2}, {"num_shards": True}, {"num_scenes": -1}, {"num_scenes": None}]
    for change in [*wrong, {"bounds": 7}, {"bounds": [0, 4, 6]}, {"bounds": [0, 4.0, 6, 9]}]:
        write_sealed(tmp_path / "shards.json", plan | change)
        with pytest.raises(ValueError, match=r"shards\.json: expected num_shards, num_scenes and the bounds"):
            read_plan(tmp_path)


DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 10**11}, "its chunks hold 3"),
        ({"num_samples": "7"}, "expected a number"),
        ({"config": []}, "'config'"),
        ({"fields": None}, "'fields'"),
        ({"heads": [1]}, "'heads'"),
        ({"chunks": [7]}, "expected a file inside the folder"),
        ({"chunks.num_samples": 10**11}, "cannot hold the 100000000000 samples"),
        ({"chunks.num_samples": "3"}, "field 'num_samples' is '3'"),
        ({"chunks.bytes": None}, "field 'bytes' is None"),
        ({"chunks.num_samples": -1}, "field 'num_samples' is -1"),
    ],
)
def test_an_index_with_a_right_checksum_and_wrong_values(tmp_path: Path, change: dict, message: str) -> None:
    write(tmp_path, [make_sample(i) for i in range(3)])
    index = json.loads((tmp_path / "index.json").read_text())
    for name, value in change.items():
        where = index["chunks"][0] if "." in name else index
        where[name.split(".")[-1]] = value
    write_sealed(tmp_path / "index.json", index)
    assert message in " ".join(check_store(tmp_path))
    if message != "its chunks hold 3":
        with pytest.raises(ValueError, match=r"index\.json") as caught:
            HiddenStates.open(tmp_path)
        assert message in str(caught.value)


def test_a_deeply_nested_index_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, [make_sample(0)])
    (tmp_path / "index.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match=r"index\.json: .*nested too deeply"):
        HiddenStates.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": torch.zeros(4)}, "tensor 'offsets' is torch.float32"),
        ({"offsets": torch.zeros(0, dtype=torch.int64)}, "do not fit its 3 samples"),
        ({"offsets": torch.tensor([-1, 4, 10, 15])}, "sample 0 of this file has wrong offsets"),
        ({"offsets": torch.tensor([5, 0, 10, 15])}, "sample 0 of this file has wrong offsets"),
        ({"offsets": torch.tensor([0, 16, 16, 15])}, "sample 0 of this file has wrong offsets"),
        ({"checksums": torch.zeros(3, dtype=torch.int32)}, "tensor 'checksums' is torch.int32"),
        ({"metadata": torch.zeros(4, dtype=torch.uint8)}, "metadata cannot be read"),
        ({"metadata": packed(b"[{}, {}, {}]")}, "expected an object with 'scene' and 'question' for each sample"),
        ({"metadata": packed(b"[{}, {}]")}, "2 metadata records, index.json says 3"),
        ({"metadata": packed(b"{}")}, "no list of metadata records, index.json says 3"),
        ({"target_hidden": torch.zeros(())}, "do not fit its 3 samples"),
        ({"version": "4"}, "format version 4"),
        ({"version": "x"}, "format version 0"),
        ({"columns": "drafter_hidden"}, "column 'target_hidden' is missing"),
        ({"columns": "drafter_hidden target_hidden __class__"}, "__class__"),
    ],
)
def test_a_chunk_with_a_right_header_checksum_and_wrong_contents(tmp_path: Path, change: dict, message: str) -> None:
    write(tmp_path, [make_sample(i) for i in range(3)])
    path = only_chunk(tmp_path)
    tensors = load_file(path)
    head = path.read_bytes()
    told = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
    tensors |= {name: value for name, value in change.items() if torch.is_tensor(value)}
    told |= {name: value for name, value in change.items() if isinstance(value, str)}
    told["checksum"] = chunk_checksum(told, tensors["metadata"].numpy())
    save_file(tensors, path, told)
    index = read_index(tmp_path)
    index["chunks"][0]["bytes"] = path.stat().st_size
    write_sealed(tmp_path / "index.json", index)
    with pytest.raises(ValueError, match=r"chunk_000000_000003\.safetensors") as caught:
        HiddenStates.open(tmp_path)[0]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}, "does not fit"),
        ({"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, "shape"),
        ({"dtype": "F32", "shape": [1.0, 2], "data_offsets": [0, 8]}, "shape"),
        ({"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}, "shape"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 10**30]}, "more than 64 bits hold"),
        ({"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}, "F99"),
        ([1, 2], "not a readable"),
        (7, "not a readable"),
    ],
)
def test_headers_that_declare_what_is_not_there(tmp_path: Path, entry: Any, message: str) -> None:
    write(tmp_path, [make_sample(i) for i in range(3)])
    path = only_chunk(tmp_path)
    size = path.stat().st_size
    text = json.dumps({"__metadata__": {}, "offsets": entry}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes((len(text).to_bytes(8, "little") + text).ljust(size, b"\0"))
    with pytest.raises(
        ValueError, match=r"chunk_000000_000003\.safetensors: not a readable safetensors file"
    ) as caught:
        HiddenStates.open(tmp_path)[0]
    assert message in str(caught.value)
    deep = b"[" * ((size - 8) // 8 * 8)
    path.write_bytes((len(deep).to_bytes(8, "little") + deep).ljust(size, b"\0"))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        HiddenStates.open(tmp_path)[0]


def test_metadata_that_unpacks_to_far_more_is_not_unpacked(tmp_path: Path) -> None:
    write(tmp_path, [make_sample(0)])
    path = only_chunk(tmp_path)
    tensors = load_file(path)
    told = {"format": "egptlib hidden states", "version": "3", "config": "{}", "start": "0"}
    told["columns"] = "drafter_hidden target_hidden"
    bomb = packed(b"[" + b" " * 5_000_000 + b"]")
    kept = {name: [tensors[name]] for name in ("offsets", "checksums", "drafter_hidden", "target_hidden")}
    told["checksum"] = chunk_checksum(told, bomb.numpy())
    head = file_header({**kept, "metadata": [bomb]}, told)
    data = [part.numpy().tobytes() for parts in kept.values() for part in parts]
    path.write_bytes(head + b"".join(data) + bomb.numpy().tobytes())
    index = read_index(tmp_path)
    index["chunks"][0]["bytes"] = path.stat().st_size
    write_sealed(tmp_path / "index.json", index)
    with pytest.raises(ValueError, match=r"its metadata cannot be read \(cut short, or far too long\)$"):
        HiddenStates.open(tmp_path)[0]
