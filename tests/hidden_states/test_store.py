"""The chunk folder: what is written is what is read, whatever stops the writer, and the earlier chunks too."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from egptlib.hidden_states import HiddenStates, HiddenStateWriter

Sample = dict[str, Any]


def make_sample(number: int, length: int = 5, widths: tuple[int, int] = (6, 8)) -> Sample:
    generator = torch.Generator().manual_seed(number)
    return {
        "drafter_hidden": torch.randn(length, widths[0], generator=generator),
        "target_hidden": torch.randn(length, widths[1], generator=generator),
        "token_ids": torch.randint(0, 32_000, (length,), generator=generator),
        "drafter_top1": torch.randint(0, 32_000, (length,), generator=generator),
        "overlap": torch.rand(length, generator=generator),
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


def assert_same(stored: HiddenStates, samples: list[Sample]) -> None:
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


def test_batches_hold_the_samples_and_padding_only_outside_the_mask(tmp_path: Path) -> None:
    samples = [make_sample(i, length) for i, length in enumerate([3, 0, 7, 2, 5])]
    samples[2]["drafter_top1"] = samples[2]["token_ids"].clone()
    write(tmp_path, samples, chunk_size=2)
    batches = list(HiddenStates.open(tmp_path).chunks())
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
    assert [b.mask.shape for b in HiddenStates.open(tmp_path)[1:4].chunks()] == [(1, 0), (2, 7)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_dtypes(tmp_path: Path, dtype: str) -> None:
    sample = make_sample(1)
    write(tmp_path, [sample], dtype=dtype)
    stored = HiddenStates.open(tmp_path)[0]
    assert stored.drafter_hidden.dtype == getattr(torch, dtype)
    assert torch.equal(stored.drafter_hidden, sample["drafter_hidden"].to(getattr(torch, dtype)))
    assert stored.overlap is not None and stored.overlap.dtype == torch.float32


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


def test_a_stop_while_a_chunk_is_written_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [make_sample(i) for i in range(4)]
    write(tmp_path, samples[:2])

    def fails(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half a chunk")
        raise OSError("disk full")

    monkeypatch.setattr("egptlib.hidden_states._writer.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, samples[2:])
    assert_same(HiddenStates.open(tmp_path), samples[:2])
    assert [path.name for path in (tmp_path / "chunks").iterdir()] == ["chunk_000000.safetensors"]


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
    good = make_sample(0)
    with HiddenStateWriter(tmp_path, dtype="float16") as writer:
        writer.add(**good)
        cases: list[tuple[dict[str, Any], str]] = [
            ({}, "already in"),
            ({"metadata": {"scene": "a"}}, "metadata lacks 'question'"),
        ]
        other = {"metadata": {"scene": "a", "question": "b"}}
        cases += [
            (other | {"overlap": torch.rand(4)}, r"overlap \[4\], expected \[5\]"),
            (other | {"target_hidden": torch.ones(5)}, r"target_hidden \[5\], expected \[5, width\]"),
            (other | {"drafter_hidden": torch.ones(5, 7)}, "drafter_hidden has width 7, the folder's is 6"),
            (other | {"target_hidden": torch.full((5, 8), 1e5)}, "target_hidden is not finite as float16"),
            (other | {"overlap": torch.full((5,), torch.nan)}, "overlap is not finite"),
        ]
        for change, message in cases:
            with pytest.raises(ValueError, match=message):
                writer.add(**(good | change))
        assert len(writer) == 1
    assert len(HiddenStates.open(tmp_path)) == 1


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index\.json: not found"):
        HiddenStates.open(tmp_path)
    write(tmp_path, [make_sample(i) for i in range(4)], chunk_size=2)
    index, chunk = tmp_path / "index.json", tmp_path / "chunks" / "chunk_000002.safetensors"
    content, original = chunk.read_bytes(), index.read_text()

    chunk.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"chunk_000002\.safetensors: \d+ bytes, index\.json says \d+"):
        HiddenStates.open(tmp_path)
    chunk.write_bytes(b"\xff" * len(content))
    with pytest.raises(ValueError, match=r"chunk_000002\.safetensors: not a readable safetensors file"):
        HiddenStates.open(tmp_path)[3]
    chunk.unlink()
    with pytest.raises(FileNotFoundError, match=r"chunk_000002\.safetensors: listed in index\.json"):
        HiddenStates.open(tmp_path)

    for text, message in [
        ("{", "not valid JSON"),
        ("[]", "field 'chunks' is missing"),
        (json.dumps({"format": "other", "chunks": []}), "expected 'egptlib hidden states' version 1"),
        (original.replace("chunk_000000", "../../chunk"), "expected the name of a file in chunks/"),
    ]:
        index.write_text(text)
        with pytest.raises(ValueError, match=message):
            HiddenStates.open(tmp_path)


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
    assert hs[0].metadata["question"] == "What is happening in scene 0? (0)"
    assert torch.equal(hs[-35].target_hidden, hs[25].target_hidden)
    batches = list(hs.chunks())
    assert [len(batch.metadata) for batch in batches] == [25, 25, 10]
    assert torch.equal(torch.cat([batch.mask.sum(1) for batch in batches]), expected["seq_lens"])
    assert hs.sequences == []
    with pytest.raises(ValueError, match="holds no token ids"):
        _ = batches[0].match
    with pytest.raises(ValueError, match="written by the earlier writer"):
        HiddenStateWriter(folder)


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
    chunk.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"chunk_000025\.pt: not a readable chunk"):
        HiddenStates.open(folder)[30]
    assert len(HiddenStates.open(folder)[3]) > 0  # the others can still be read
