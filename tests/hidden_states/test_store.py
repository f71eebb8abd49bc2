"""The chunk folder: what is written is what is read, whatever stops the writer, and the earlier chunks too."""

import errno
import json
import os
import pickle
import re
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from egptlib.hidden_states import Head, HiddenSample, HiddenStates, HiddenStateWriter, RaggedBatch, check_store
from egptlib.hidden_states._chunk import SafetensorsChunk
from egptlib.hidden_states._format import sample_checksums
from egptlib.hidden_states._index import read_index, write_index
from egptlib.hidden_states._recovery import rebuild_index

Sample = dict[str, Any]


def make_sample(number: int, length: int = 5, widths: tuple[int, int] = (6, 8)) -> Sample:
    generator = torch.Generator().manual_seed(number)
    return {
        "drafter_hidden": torch.randn(length, widths[0], generator=generator),
        "target_hidden": torch.randn(length, widths[1], generator=generator),
        "token_ids": torch.randint(0, 32_000, (length,), generator=generator),
        "drafter_top1": torch.randint(0, 32_000, (length,), generator=generator),
        "overlap": torch.rand(length, generator=generator),
        "drafter_confidence": torch.rand(length, generator=generator),
        "target_entropy": torch.rand(length, generator=generator),
        "metadata": {
            "scene": f"seq_{number // 4}/{number:06d}",
            "sequence": f"seq_{number // 4}",
            "question": "Wie viele Fußgänger? 行人",
            "target_text": "two",
        },
    }


def write(folder: Path, samples: list[Sample], **settings: Any) -> None:
    with HiddenStateWriter(folder, **settings) as writer:
        for sample in samples:
            writer.add(**sample)


def assert_same(stored: Sequence[HiddenSample], samples: list[Sample]) -> None:
    assert len(stored) == len(samples)
    for read, sample in zip(stored, samples):
        for name, value in sample.items():
            if name == "metadata":
                assert read.metadata == value
            else:
                assert torch.equal(getattr(read, name), value.to(getattr(read, name).dtype)), name


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 5), st.lists(st.integers(0, 12)))
def test_round_trip_in_any_chunks_and_with_any_interruptions(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], chunk_size: int, stops: list[int]
) -> None:
    """Ragged lengths (0 included); after each stop a new writer finds what is there and goes on."""
    folder = tmp_path_factory.mktemp("store")
    samples = [make_sample(i, length) for i, length in enumerate(lengths)]
    for stop in sorted(set(stops)) + [len(samples)]:
        with HiddenStateWriter(folder, {"a": (1, 2)}, chunk_size=chunk_size) as writer:
            for sample in samples[:stop]:
                key = (sample["metadata"]["scene"], sample["metadata"]["question"])
                if key not in writer:
                    writer.add(**sample)
    stored = HiddenStates.open(folder)
    assert_same(stored, samples)
    assert stored.config == {"a": [1, 2], "dtype": "float32"}


def test_indexing(tmp_path: Path) -> None:
    samples = [make_sample(i, 3 + i) for i in range(10)]
    write(tmp_path, samples, chunk_size=4)
    hs = HiddenStates.open(tmp_path)
    assert hs[-1].metadata == samples[-1]["metadata"]
    assert len(hs[2]) == 5
    assert_same(hs[2:9:3], samples[2:9:3])
    assert_same(hs[::-1], samples[::-1])
    assert_same(hs[3:][1:3], samples[4:6])
    assert_same(hs.select(sequence="seq_1"), samples[4:8])
    assert_same(hs.select(sequence=["seq_0", "seq_2"]), samples[:4] + samples[8:])
    assert hs.sequences == ["seq_0", "seq_1", "seq_2"]
    assert len(hs.select(sequence="seq_1", scene="nowhere")) == 0
    with pytest.raises(IndexError, match="sample 10 of 10"):
        hs[10]
    with pytest.raises(ValueError, match="no sample has the metadata field 'colour'"):
        hs.select(colour="red")

    mask = torch.arange(10) % 3 == 1
    for kind in (list, np.array, torch.tensor):
        assert_same(hs[kind([7, -1, 0, 7])], [samples[i] for i in (7, 9, 0, 7)])
        assert_same(hs[kind(mask.tolist())], samples[1::3])
    kinds: list[Any] = [np.uint8(3), torch.tensor(3)]
    assert [hs[kind].metadata for kind in kinds] == [samples[3]["metadata"]] * 2
    assert len(hs[[]]) == 0
    with pytest.raises(IndexError, match="mask of 9 samples for 10 in"):
        hs[mask[1:]]
    with pytest.raises(IndexError, match=r"sample \[3, 10\] of 10"):
        hs[[3, 10]]
    with pytest.raises(ValueError, match="samples: expected a list of whole numbers"):
        hs[[1.0, 2.0]]  # type: ignore[list-item]
    names = ["seq_0", "seq_2"]
    for several in (np.array(names), (name for name in names), dict.fromkeys(names).keys()):
        assert_same(hs.select(sequence=several), samples[:4] + samples[8:])


def test_a_writer_keeps_what_it_was_given_and_nothing_once_it_is_closed(tmp_path: Path) -> None:
    """A caller who fills the same tensors for each sample got the ids of the last one in all that a commit wrote."""
    ids, rows = torch.zeros(3, dtype=torch.int32), torch.zeros(3, 4)
    with HiddenStateWriter(tmp_path) as writer:
        for number in range(3):
            ids.fill_(number)
            rows.fill_(number)
            told = {"scene": str(number), "question": "q"}
            writer.add(rows, rows, ids, torch.from_numpy(ids.numpy()), rows[:, 0], metadata=told)
    for number, sample in enumerate(HiddenStates.open(tmp_path)):
        for name in ("target_hidden", "token_ids", "drafter_top1", "overlap"):
            assert set(getattr(sample, name).flatten().tolist()) == {number}, name
    for late in (
        lambda: writer.add(rows, rows, metadata={"scene": "9", "question": "q"}),
        lambda: writer.add_prompts("9", {}),
    ):
        with pytest.raises(ValueError, match=f"^{tmp_path}: this writer is closed; open another$"):
            late()
    writer.close()  # twice is once
    assert len(HiddenStates.open(tmp_path)) == len(writer) == 3


def picklings(hs: HiddenStates) -> HiddenStates:
    again: HiddenStates = pickle.loads(pickle.dumps(hs))
    return again


def test_states_go_to_other_processes(tmp_path: Path, shared: Path) -> None:
    """As a DataLoader's workers get them, and joblib's; also when their files are mapped already."""
    samples = [make_sample(i) for i in range(5)]
    write(tmp_path, samples, chunk_size=2)
    hs = HiddenStates.open(tmp_path)
    assert_same(hs, samples)
    assert_same(picklings(hs[::-2]), samples[::-2])
    assert len(pickle.dumps(hs)) < len(pickle.dumps(samples)) / 2  # no states go along
    earlier = HiddenStates.open(shared / "golden" / "legacy_chunks")
    assert torch.equal(picklings(earlier[3:])[0].target_hidden, earlier[3].target_hidden)


@pytest.mark.slow
def test_a_loader_with_workers_reads_them(tmp_path: Path) -> None:
    samples = [make_sample(i) for i in range(5)]
    write(tmp_path, samples, chunk_size=2)
    hs = HiddenStates.open(tmp_path)
    assert_same(hs, samples)
    loader: Any = DataLoader(hs, 2, num_workers=1, collate_fn=RaggedBatch, multiprocessing_context="spawn")  # type: ignore[arg-type]
    assert_same([sample for batch in loader for sample in batch], samples)


def test_batches_hold_the_samples_and_padding_only_outside_the_mask(tmp_path: Path) -> None:
    samples = [make_sample(i, length) for i, length in enumerate([3, 0, 7, 2, 5])]
    samples[2]["drafter_top1"] = samples[2]["token_ids"].clone()
    write(tmp_path, samples, chunk_size=2)
    batches = list(HiddenStates.open(tmp_path).chunks(2))
    assert [batch.mask.shape for batch in batches] == [(2, 3), (2, 7), (1, 5)]
    rows = [(batch, row) for batch in batches for row in range(len(batch.metadata))]
    for (batch, row), sample in zip(rows, samples):
        length = len(sample["token_ids"])
        assert batch.mask[row].sum() == length
        for name in ("drafter_hidden", "target_hidden", "overlap", "token_ids", "drafter_top1"):
            tensor = getattr(batch, name)[row]
            assert torch.equal(tensor[:length], sample[name].to(tensor.dtype))
            assert (tensor[length:] == (-1 if tensor.dtype == torch.int32 else 0)).all()
    assert batches[1].match[0].all()
    assert not batches[0].match[1].any()  # padding is no match, though -1 equals -1
    assert [b.mask.shape for b in HiddenStates.open(tmp_path)[1:4].chunks(2)] == [(2, 7), (1, 2)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_dtypes(tmp_path: Path, dtype: str) -> None:
    sample = make_sample(1)
    write(tmp_path, [sample], dtype=dtype)
    stored = HiddenStates.open(tmp_path)[0]
    assert stored.drafter_hidden.dtype == getattr(torch, dtype)
    assert torch.equal(stored.drafter_hidden, sample["drafter_hidden"].to(getattr(torch, dtype)))
    assert stored.overlap is not None and stored.overlap.dtype == torch.float32


def test_views_of_a_tensor_are_stored_as_they_read(tmp_path: Path) -> None:
    """Transposed, and every second column or row: not as the bytes lie in memory."""
    drafter, target, ids = torch.randn(4, 6).T, torch.randn(6, 8)[:, ::2], torch.arange(12)[::2]
    with HiddenStateWriter(tmp_path) as writer:
        writer.add(drafter, target, ids, metadata={"scene": "a", "question": "?"})
    found = HiddenStates.open(tmp_path)[0]
    for stored, view in ((found.drafter_hidden, drafter), (found.target_hidden, target), (found.token_ids, ids)):
        torch.testing.assert_close(stored, view, rtol=0, atol=0, check_dtype=False)


def test_a_stop_between_chunk_and_index_counts_nothing_and_is_repaired(tmp_path: Path) -> None:
    """The chunk file is there, the index is the older one: as after a crash between the two."""
    samples = [make_sample(i) for i in range(4)]
    write(tmp_path, samples[:2], chunk_size=2)
    before = (tmp_path / "index.json").read_bytes()
    write(tmp_path, samples[2:], chunk_size=2)
    (tmp_path / "index.json").write_bytes(before)
    assert_same(HiddenStates.open(tmp_path), samples[:2])
    with HiddenStateWriter(tmp_path, chunk_size=2) as writer:
        assert len(writer) == 2
        for sample in samples[2:]:
            writer.add(**sample)
    assert_same(HiddenStates.open(tmp_path), samples)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_what_a_crash_left_unfinished_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    with HiddenStateWriter(tmp_path, {"run": 1}) as writer:
        writer.add(torch.zeros(2, 4), torch.zeros(2, 4), metadata={"scene": "s", "question": "q"})
    whole = files(tmp_path)
    names = ["index-a_1", "target_head-b2c", "trace-x1_y", "failures-0a", "shards-zz"]
    endings = [".json", ".safetensors", ".parquet", ".jsonl", ".json"]
    for name in (f".{stem}{ending}" for stem, ending in zip(names, endings, strict=True)):
        (tmp_path / name).write_bytes(b"half")
    for name in (".chunk_000000_000001-q7.safetensors", "chunk_000001_000009.safetensors"):
        (tmp_path / "chunks" / name).write_bytes(b"half")
    kept = {".notes.json": b"mine", "trace-old.parquet": b"mine too"}
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    HiddenStateWriter(tmp_path, {"run": 1}).close()
    assert files(tmp_path) == whole | kept


@pytest.mark.parametrize("fails_at", range(1, 13))
def test_a_disk_that_fills_up_at_any_write_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """What was committed stays readable; with space again, the folder ends as if nothing had happened."""
    samples = [make_sample(i) for i in range(7)]
    write(tmp_path / "whole", samples, chunk_size=4, commit_every=2)
    original, count = os.replace, 0

    def fails(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(source, target)

    folder = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr("egptlib._paths.os.replace", fails)
        try:
            write(folder, samples, chunk_size=4, commit_every=2)
            assert count < fails_at
        except OSError as error:
            committed = int(re.findall(r"the (\d+) samples committed so far are whole", str(error))[0])
            if (folder / "index.json").exists():
                assert check_store(folder, deep=True) == []
                assert_same(HiddenStates.open(folder), samples[:committed])
    with HiddenStateWriter(folder, chunk_size=4, commit_every=2) as writer:
        for sample in samples[len(writer) :]:
            writer.add(**sample)
    assert files(folder) == files(tmp_path / "whole")


@pytest.mark.parametrize(("commit_every", "chunk_size"), [(1, 9), (3, 9), (4, 2), (9, 3)])
def test_a_crash_costs_at_most_the_samples_since_the_last_commit(
    tmp_path: Path, commit_every: int, chunk_size: int
) -> None:
    every = min(commit_every, chunk_size)  # a full chunk is written too
    writer = HiddenStateWriter(tmp_path, commit_every=commit_every, chunk_size=chunk_size)
    for number in range(8):
        writer.add(**make_sample(number))
        safe = (number + 1) // every * every
        assert writer.num_committed == safe
        assert len(HiddenStates.open(tmp_path)) == safe if safe else not list(tmp_path.glob("chunks/*"))
    writer.close()


def test_samples_before_an_error_are_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), HiddenStateWriter(tmp_path) as writer:
        writer.add(**make_sample(0))
        raise KeyboardInterrupt
    assert_same(HiddenStates.open(tmp_path), [make_sample(0)])


@pytest.mark.parametrize(
    ("config", "dtype", "message"),
    [
        ({"path": "free", "gamma": 5}, "float32", r"field 'path' is 'target' in this folder and 'free' now"),
        ({"path": "target"}, "float32", r"field 'gamma' is 5 in this folder and None now"),
        ({"path": "target", "gamma": 5}, "float16", r"field 'dtype' is 'float32'"),
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, config: dict, dtype: str, message: str) -> None:
    write(tmp_path, [make_sample(0)], config={"path": "target", "gamma": 5})
    with pytest.raises(ValueError, match=message) as caught:
        HiddenStateWriter(tmp_path, config, dtype=dtype)
    assert str(tmp_path / "index.json") in str(caught.value)


def test_samples_that_do_not_fit_are_refused_whole(tmp_path: Path) -> None:
    good = make_sample(0) | {"target_layers": torch.ones(5, 2, 3)}
    with HiddenStateWriter(tmp_path, dtype="float16") as writer:
        writer.add(**good)
        cases: list[tuple[dict[str, Any], str]] = [
            ({}, f"scene 'seq_0/000000', question 'Wie viele Fußgänger? 行人': already in {tmp_path}"),
            ({"metadata": {"scene": "a"}}, "metadata lacks 'question'; expected at least 'scene' and 'question'"),
            ({"metadata": {"question": "q"}}, "metadata lacks 'scene'; expected at least 'scene' and 'question'"),
        ]
        changes: list[tuple[dict[str, Any], str]] = [
            ({"overlap": torch.rand(4)}, "overlap [4], expected [5]"),
            ({"target_hidden": torch.ones(5)}, "target_hidden [5], expected [5, width]"),
            ({"target_layers": torch.ones(5, 3)}, "target_layers [5, 3], expected [5, layers, width]"),
            ({"target_layers": torch.ones(5, 1, 3)}, "target_layers has shape [1, 3], the folder's is [2, 3]"),
            ({"drafter_hidden": torch.ones(5, 7)}, "drafter_hidden has width 7, the folder's is 6"),
            ({"target_hidden": torch.full((5, 8), 1e5)}, "target_hidden is not finite as float16"),
            ({"overlap": torch.full((5,), torch.nan)}, "overlap is not finite as float16"),
        ]
        other = {"metadata": {"scene": "a", "question": "b"}}
        for change, message in cases + [(other | change, f"scene 'a', question 'b': {m}") for change, m in changes]:
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                writer.add(**(good | change))
        with pytest.raises(
            ValueError, match=r"fields drafter_hidden, target_hidden; the folder's samples have .*, over"
        ):
            writer.add(good["drafter_hidden"], good["target_hidden"], metadata=other["metadata"])
        assert len(writer) == 1
    assert len(HiddenStates.open(tmp_path)) == 1


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index\.json: not found"):
        HiddenStates.open(tmp_path)
    write(tmp_path, [make_sample(i) for i in range(4)], chunk_size=2)
    index, chunk = tmp_path / "index.json", tmp_path / "chunks" / "chunk_000002_000004.safetensors"
    content, original = chunk.read_bytes(), index.read_text()

    chunk.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"chunk_000002_000004\.safetensors: \d+ bytes, index\.json says \d+"):
        HiddenStates.open(tmp_path)
    chunk.write_bytes(b"\xff" * len(content))
    with pytest.raises(ValueError, match=r"chunk_000002_000004\.safetensors: not a readable safetensors file"):
        HiddenStates.open(tmp_path)[3]
    chunk.unlink()
    with pytest.raises(FileNotFoundError, match=r"chunk_000002_000004\.safetensors: listed in index\.json"):
        HiddenStates.open(tmp_path)

    for text, message in [
        ("{", "not valid JSON"),
        ("[]", "field 'chunks' is missing"),
        (json.dumps({"format": "other", "chunks": []}), "expected 'egptlib hidden states' version 3"),
        (original.replace("chunk_000000", "chunk_000009"), "its checksum does not fit its content"),
    ]:
        index.write_text(text)
        with pytest.raises(ValueError, match=message):
            HiddenStates.open(tmp_path)


def test_opening_reads_no_state(tmp_path: Path) -> None:
    """Damage in one file does not keep the samples of another from being read, and nothing is mapped before its use."""
    samples = [make_sample(i) for i in range(4)]
    write(tmp_path, samples, chunk_size=2)
    chunk = tmp_path / "chunks" / "chunk_000002_000004.safetensors"
    chunk.write_bytes(bytes(chunk.stat().st_size))
    hs = HiddenStates.open(tmp_path)
    assert len(hs) == len(hs[1:]) + 1 == 4
    assert not any("_opened" in vars(chunk.file) for chunk in hs._chunks if isinstance(chunk, SafetensorsChunk))
    assert_same([hs[0], hs[1]], samples[:2])
    assert ["_opened" in vars(chunk.file) for chunk in hs._chunks if isinstance(chunk, SafetensorsChunk)] == [
        True,
        False,
    ]
    with pytest.raises(ValueError, match="chunk_000002_000004"):
        hs[2]


def test_paths_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [make_sample(0)])
    index = read_index(tmp_path)
    index["chunks"][0]["path"] = "../secret.safetensors"
    write_index(tmp_path, index)
    with pytest.raises(ValueError, match="expected a file inside the folder"):
        HiddenStates.open(tmp_path)


def test_every_flipped_bit_is_found_and_none_gives_a_wrong_sample(tmp_path: Path) -> None:
    samples = [make_sample(i, 3 + i) for i in range(6)]
    write(tmp_path, samples, chunk_size=4, dtype="bfloat16")
    truth = [{n: getattr(s, n) for n in samples[0]} for s in HiddenStates.open(tmp_path)]
    random = torch.Generator().manual_seed(3)
    paths = sorted(p for p in tmp_path.rglob("*") if p.suffix in (".json", ".safetensors"))
    assert len(paths) == 3
    for number in range(150):
        path = paths[number % 3]
        whole = path.read_bytes()
        bit = int(torch.randint(0, 8 * len(whole), (), generator=random))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert check_store(tmp_path, deep=True), f"bit {bit} of {path.name}"
        for i, expected in enumerate(truth):
            try:
                sample = HiddenStates.open(tmp_path)[i]
            except ValueError:
                continue
            for name, value in expected.items():
                read = getattr(sample, name)
                assert read == value if name == "metadata" else torch.equal(read, value), f"bit {bit} of {path.name}"
        with suppress(ValueError):  # many at once, each checked
            (batch,) = HiddenStates.open(tmp_path).stream(6, shuffle=True, seed=number)
            for sample in batch:
                expected = truth[int(sample.metadata["scene"][-6:])]
                assert sample.token_ids is not None
                assert torch.equal(sample.target_hidden, expected["target_hidden"]), f"bit {bit} of {path.name}"
                assert torch.equal(sample.token_ids, expected["token_ids"]), f"bit {bit} of {path.name}"
        path.write_bytes(whole)
    assert check_store(tmp_path, deep=True) == []


def test_a_lost_index_is_rebuilt_when_that_is_safe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = [make_sample(i) for i in range(7)]
    with HiddenStateWriter(tmp_path, {"a": 1}, chunk_size=3) as writer:
        writer.add_heads(target=Head(torch.ones(4, 8), torch.ones(8), 1e-6))
        for sample in samples:
            writer.add(**sample)
    whole = files(tmp_path)
    (tmp_path / "index.json").write_bytes(whole["index.json"][:100])
    with pytest.raises(ValueError, match=r"check .* --repair"):
        HiddenStates.open(tmp_path)
    with HiddenStateWriter(tmp_path, {"a": 1}, chunk_size=3) as writer:
        assert len(writer) == 7
    assert "rebuilt from 3 chunks with 7 samples, all checksums right" in caplog.text
    assert files(tmp_path) == whole | {"index.replaced-1.json": whole["index.json"][:100]}
    (tmp_path / "index.json").unlink()
    with pytest.raises(ValueError, match="field 'a' is 1 in this folder and 2 now"):
        HiddenStateWriter(tmp_path, {"a": 2}, chunk_size=3)  # rebuilt, then compared
    (tmp_path / "chunks" / "chunk_000003_000006.safetensors").unlink()
    (tmp_path / "index.json").unlink()
    with pytest.raises(ValueError, match="chunks of the samples from 3 on are missing"):
        rebuild_index(tmp_path)


def test_two_writers_and_a_dead_one(tmp_path: Path) -> None:
    with HiddenStateWriter(tmp_path) as first:
        with pytest.raises(ValueError, match=rf"another writer is at work here \(process {os.getpid()} on "):
            HiddenStateWriter(tmp_path)
        first.add(**make_sample(0))
    write(tmp_path, [make_sample(1)])
    assert len(HiddenStates.open(tmp_path)) == 2


def test_heads_are_kept_beside_the_chunks(tmp_path: Path) -> None:
    head = Head(torch.randn(11, 8), torch.rand(8), 1e-6)
    with HiddenStateWriter(tmp_path) as writer:
        writer.add_heads(target=head)
        writer.add(**make_sample(0))
    hs = HiddenStates.open(tmp_path)
    hidden = torch.randn(3, 8)
    assert torch.equal(hs.target_head.logits(hidden), hidden @ head.lm_head.T)
    expected = torch.nn.functional.rms_norm(hidden, (8,), head.norm, 1e-6)
    assert torch.allclose(hs.target_head.normalise(hidden), expected, atol=1e-6)
    with pytest.raises(ValueError, match="the drafter's head is not in this folder"):
        _ = hs.drafter_head
    path = tmp_path / "target_head.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match="another checksum"):
        _ = hs.target_head


def test_streams_are_whole_in_any_batches_and_orders(tmp_path: Path) -> None:
    samples = [make_sample(i, 2 + i % 5) for i in range(23)]
    for sample in samples:
        sample["target_layers"] = torch.randn(len(sample["overlap"]), 3, 8)
    write(tmp_path, samples, chunk_size=4)
    hs = HiddenStates.open(tmp_path)
    read = [sample for batch in hs.stream(5) for sample in batch]
    assert_same(read, samples)
    assert hs.lengths.tolist() == [len(sample["overlap"]) for sample in samples]
    assert hs[20:2:-3].lengths.tolist() == [len(sample["overlap"]) for sample in samples[20:2:-3]]
    orders = []
    for seed in (0, 0, 1):
        shuffled = [sample for batch in hs.stream(5, shuffle=True, seed=seed) for sample in batch]
        orders.append([sample.metadata["scene"] for sample in shuffled])
        assert sorted(orders[-1]) == [sample["metadata"]["scene"] for sample in samples]
        by_scene = {sample["metadata"]["scene"]: sample for sample in samples}
        assert_same(shuffled, [by_scene[scene] for scene in orders[-1]])
    assert orders[0] == orders[1] != orders[2]
    batch = next(hs[2:].stream(3))
    assert batch.lengths.tolist() == [4, 5, 6] and batch.padded().mask.sum(1).tolist() == [4, 5, 6]
    batch[0].target_hidden.zero_()  # a view: the file is not touched
    assert check_store(tmp_path, deep=True) == []


def test_files_most_of_which_is_wanted_in_order_are_read_ahead_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [make_sample(i) for i in range(12)], chunk_size=4)
    asked: list[str] = []
    monkeypatch.setattr(SafetensorsChunk, "read_ahead", lambda chunk: asked.append(chunk.path.name[6:12]))
    hs = HiddenStates.open(tmp_path)
    every = ["000000", "000004", "000008"]
    for selection, shuffle, expected in (
        (hs, False, every), (hs, True, []), (hs[:3], False, every[:1]), (hs[:2], False, []), (hs[1:7], False, every[:2])
    ):  # fmt: skip
        asked.clear()
        assert sum(map(len, selection.stream(3, shuffle=shuffle))) == len(selection)
        assert asked == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=6), st.lists(st.sampled_from([1, 2, 4, 8, 10, 24]), min_size=1, max_size=3))
def test_checksums_are_what_the_format_says(lengths: list[int], row_sizes: list[int]) -> None:
    """Against FORMAT.md's words, sample by sample."""
    offsets = np.cumsum([3, *lengths])
    rng = np.random.default_rng(len(lengths))
    columns = [rng.integers(0, 256, (sum(lengths), size), np.uint8) for size in row_sizes]
    expected = []
    for first, last in pairwise(offsets.tolist()):
        total = first + 2**32 * last
        for column in columns:
            total = int(xxhash.xxh3_64_hexdigest(column[first - 3 : last - 3].tobytes(), seed=total), 16)
        expected.append((total + 2**63) % 2**64 - 2**63)
    assert sample_checksums(offsets[:-1], offsets[1:], columns, 3).tolist() == expected


def test_a_chunk_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    """Readable as FORMAT.md says, without this library."""
    samples = [make_sample(i, 3 + i) for i in range(4)]
    write(tmp_path, samples)
    (entry,) = json.loads((tmp_path / "index.json").read_text())["chunks"]
    chunk = load_file(tmp_path / entry["path"])
    records = json.loads(zlib.decompress(chunk["metadata"].numpy().tobytes()))
    for i, sample in enumerate(samples):
        rows = slice(chunk["offsets"][i], chunk["offsets"][i + 1])
        assert torch.equal(chunk["target_hidden"][rows], sample["target_hidden"])
        assert records[i] == sample["metadata"]


def test_the_earlier_writers_chunks(shared: Path) -> None:
    folder = shared / "golden" / "legacy_chunks"
    expected = load_file(folder / "expected_sums.safetensors")
    hs = HiddenStates.open(folder)
    assert len(hs) == 60
    for i, sample in enumerate(hs):
        assert len(sample) == expected["seq_lens"][i]
        assert sample.drafter_hidden.shape == sample.target_hidden.shape == (len(sample), 64)
        assert torch.allclose(sample.drafter_hidden.sum(), expected["sum_drafter"][i], rtol=1e-5, atol=1e-4)
        assert torch.allclose(sample.target_hidden.sum(), expected["sum_target"][i], rtol=1e-5, atol=1e-4)
    assert torch.equal(hs.lengths, expected["seq_lens"].long())
    mixed = next(hs.stream(60, shuffle=True, seed=1))
    for sample in mixed:
        i = 5 * int(sample.metadata["scene"]) + int(sample.metadata["question"][-2])
        assert torch.allclose(sample.target_hidden.sum(), expected["sum_target"][i], rtol=1e-5, atol=1e-4)
    assert hs[0].metadata["question"] == "What is happening in scene 0? (0)"
    assert torch.equal(hs[-35].target_hidden, hs[25].target_hidden)
    batches = list(hs.chunks(25))
    assert [len(batch.metadata) for batch in batches] == [25, 25, 10]
    assert torch.equal(torch.cat([batch.mask.sum(1) for batch in batches]), expected["seq_lens"])
    assert hs.sequences == []
    with pytest.raises(ValueError, match="holds no token ids"):
        _ = batches[0].match
    with pytest.raises(ValueError, match="written by the earlier writer"):
        HiddenStateWriter(folder)


def test_earlier_chunks_are_opened_once_and_one_at_a_time(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hs = HiddenStates.open(shared / "golden" / "legacy_chunks")
    opened: list[str] = []
    load = torch.load

    def noting(path: Path, **options: Any) -> Any:
        opened.append(Path(path).name)
        return load(path, **options)

    monkeypatch.setattr(torch, "load", noting)
    for batch in hs.stream(7):
        assert len(batch) <= 7
        assert sum("_content" in vars(chunk) for chunk in hs._chunks) <= 2  # a batch may lie across two
    assert opened == sorted(path.name for path in (hs.folder / "chunks").glob("*.pt"))
    assert not any("_content" in vars(chunk) for chunk in hs._chunks)


def test_a_stream_holds_less_than_two_chunks(tmp_path: Path) -> None:
    """Of a folder of five; mapped pages count. Every byte is touched."""
    write(tmp_path, [make_sample(i, 40, (2048, 2048)) for i in range(100)], chunk_size=20, commit_every=20)
    chunk = max(path.stat().st_size for path in (tmp_path / "chunks").iterdir())

    def held(what: str) -> int:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
        return int(line.split()[1]) * 1024

    for shuffle in (False, True):
        total = 0.0
        for _ in range(2):  # the first time, torch takes memory of its own
            try:
                Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM anew
            except OSError:
                pytest.skip("this system does not let a process start its peak anew")
            before = held("VmRSS")
            for batch in HiddenStates.open(tmp_path).stream(8, shuffle=shuffle):
                total += sum(float(s.drafter_hidden.sum() + s.target_hidden.sum()) for s in batch)
        assert held("VmHWM") - before < 2 * chunk, (shuffle, total)


def test_earlier_chunks_that_are_damaged_or_unsafe(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "legacy"
    shutil.copytree(shared / "golden" / "legacy_chunks", folder)
    chunk = folder / "chunks" / "chunk_000025.pt"
    torch.save({"egpt_hidden": torch.ones(25, 2, 4)}, chunk)
    with pytest.raises(ValueError, match=r"chunk_000025\.pt: field 'vl_hidden' is missing"):
        HiddenStates.open(folder)[30]
    torch.save({"metadata": Path("a")}, chunk)  # a class that is no tensor: never executed
    with pytest.raises(ValueError, match=r"chunk_000025\.pt: not a readable chunk"):
        HiddenStates.open(folder)[30]
    chunk.write_bytes(b"nothing" * 99)
    with pytest.raises(ValueError, match=r"chunk_000025\.pt: not a readable chunk"):
        HiddenStates.open(folder)[30]
    assert len(HiddenStates.open(folder)[3]) > 0  # the others can still be read


def test_a_second_writer_waits_when_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from egptlib.hidden_states._index import FolderLock

    first = FolderLock(tmp_path)
    monkeypatch.setenv("EGPTLIB_LOCK_SECONDS", "0.1")
    with pytest.raises(ValueError, match="another writer is at work here"):
        FolderLock(tmp_path)
    monkeypatch.setenv("EGPTLIB_LOCK_SECONDS", "30")
    threading.Timer(0.3, first.release).start()
    FolderLock(tmp_path).release()
