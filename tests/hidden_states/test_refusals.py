"""What this room refuses or tells, word by word: the line a person gets, and that nothing was written for it."""

import json
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import RepetitionPenaltyLogitsProcessor

from egptlib._sealed import read_sealed, write_sealed
from egptlib.hidden_states import (
    Damage,
    Head,
    HiddenStates,
    HiddenStateWriter,
    check_store,
    convert_states,
    extract,
    extract_shards,
    plan_extraction,
)
from egptlib.hidden_states._extract import Extraction, ExtractionSettings
from egptlib.hidden_states._failures import Failures
from egptlib.hidden_states._format import MappedFile, chunk_checksum
from egptlib.hidden_states._index import FolderLock, read_index
from egptlib.hidden_states._legacy import LegacyChunk
from egptlib.hidden_states._plan import ExtractionPlan
from egptlib.hidden_states._recovery import rebuild_index
from egptlib.hidden_states._shards import _run
from egptlib.hidden_states._speculators import Converted
from egptlib.models import Pair
from tests.hidden_states.conftest import make_scene
from tests.hidden_states.test_extract import LENGTH, Scenes, overlap_loop, published_forward
from tests.hidden_states.test_store import make_sample, write


def refusal(call: Any, *given: Any, kind: type[Exception] = ValueError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*given, **options)
    return str(caught.value)


def test_what_extract_refuses(pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "egptlib")
    for name in ("max_new_tokens", "num_questions", "batch_size"):
        nothing: dict[str, Any] = {name: 0}
        told = {"max_new_tokens": 50, "num_questions": 10, "batch_size": 64} | nothing
        assert refusal(extract, pair, Scenes(1), tmp_path / "out", **nothing) == (
            ", ".join(f"{n} {value}" for n, value in told.items()) + ": expected at least 1"
        )
    for wrong in ({"path": "free", "layers": {"target": (1,)}}, {}, {"layers": {"drafter": (1,)}}):
        line = refusal(extract, pair, Scenes(1), tmp_path / "out", prompt_rows=True, **wrong)
        assert line == "prompt_rows: expected the target's path and layers of the target"
    assert not (tmp_path / "out").exists() and not caplog.messages
    scenes: Any = Scenes(1)
    scenes.num_questions = 2
    for asked in ({"num_questions": 2}, {"questions": ["Who?"]}, {}):
        extract(pair, scenes, tmp_path / "out", max_new_tokens=2, **asked)
    assert [line for line in caplog.messages if "asked for" in line] == [
        "num_questions: 10 asked for, and some scenes have 2: those are asked all they have"
    ]
    refused = refusal(HiddenStateWriter, tmp_path / "new", dtype="int8")
    assert refused == "dtype 'int8': expected one of float32, bfloat16, float16"
    assert refusal(HiddenStateWriter, tmp_path / "new", chunk_size=0) == (
        "chunk_size 0, commit_every 50: expected at least 1"
    )
    assert refusal(HiddenStateWriter, tmp_path / "new", commit_every=0).startswith("chunk_size 1000, commit_every 0")
    assert refusal(next, HiddenStates.open(tmp_path / "out").stream(0)) == "batch_size 0: expected at least 1"
    assert not (tmp_path / "new").exists()


def test_fields_that_a_sample_does_not_have_are_named(tmp_path: Path) -> None:
    with HiddenStateWriter(tmp_path) as writer:
        line = refusal(writer.add, **make_sample(0), kind=TypeError, overlaps=1, entropy=2)
        assert line == "add: no such field of a sample: entropy, overlaps" and len(writer) == 0


def test_a_damaged_list_of_failures_names_its_line(tmp_path: Path) -> None:
    failures = Failures(tmp_path)
    failures.add("a", "", ValueError("dark"))
    failures.add("b", "q", OSError("gone"))
    again = Failures(tmp_path)
    assert len(again) == 2 and ("a", "any") in again and ("b", "q") in again and ("b", "other") not in again
    path = tmp_path / "failures.jsonl"
    for line in ("{", '{"scene": "c"}', "[1]", "[" * 100_000):
        path.write_text('{"scene": "a", "question": "", "reason": "r"}\n' + line + "\n")
        told = f"{path}: line 2 is damaged; remove the file, and what failed is tried again"
        assert refusal(Failures, tmp_path) == told


def test_the_plan_says_sizes_and_times() -> None:
    assert str(ExtractionPlan(1234, 2.5e9, 7320.0, 6)) == (
        "1,234 samples, 2.5 GB, 2 h 2 min in one process (from 6 samples tried here)"
    )
    assert str(ExtractionPlan(4, 999.4e6, 59.0, 2)).startswith("4 samples, 999 MB, 59.0 s in one process")


def test_a_plan_sets_a_damaged_scene_aside_by_name(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    assert refusal(plan_extraction, pair, []) == "scenes: expected at least one"
    scenes = Scenes(3)
    scenes.broken = {0, 1, 2}
    told = "none of 3 scenes could be read; scene seq_0/000000: ValueError: clip 0 is damaged"
    assert refusal(plan_extraction, pair, scenes, num_questions=1) == told and not caplog.messages
    scenes.broken, scenes.read = {0}, [0, 0, 0]
    plan = plan_extraction(pair, scenes, num_questions=1, max_new_tokens=2)
    assert caplog.messages == ["set aside: scene seq_0/000000: ValueError: clip 0 is damaged"]
    assert scenes.read == [2, 2, 1]  # the first that can be read warms up
    assert (plan.num_samples, plan.num_trial) == (3, 2)


def test_shards_are_cut_where_batches_of_one_process_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left to what `extract` does by itself."""
    monkeypatch.setattr("egptlib.hidden_states._shards._run", lambda *given: 1 // 0)
    defaults = asdict(ExtractionSettings())
    cases: list[dict[str, Any]] = [{}, {"num_questions": 5}, {"batch_size": 7}, {"questions": ["a", "b", "c"]}]
    for number, options in enumerate([*cases, {"batch_size": 4, "num_questions": 9}]):
        told, scenes = defaults | options, range(100)
        per_batch = max(1, told["batch_size"] // len(told["questions"] or range(told["num_questions"])))
        out = tmp_path / str(number)
        refusal(extract_shards, {"name": "mini"}, scenes, out, workers=2, kind=ZeroDivisionError, **options)
        bounds = read_sealed(out / "shards.json")["bounds"]
        assert (bounds[0], bounds[-1]) == (0, 100) and all(bound % per_batch == 0 for bound in bounds[:-1])
        assert len(bounds) == 1 + min(8, -(-100 // per_batch))  # four a worker
        refusal(extract_shards, {"name": "mini"}, scenes, out, workers=1, kind=ZeroDivisionError, **options)
        assert read_sealed(out / "shards.json")["bounds"] == bounds  # what was begun keeps its number


def test_what_shards_did_is_added_up_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "egptlib")
    parts = [Extraction(Path("a"), 3, 1, 2, 900.0, 4), Extraction(Path("b"), 10, 20, 30, 900.0, 40)]
    monkeypatch.setattr("egptlib.hidden_states._shards._run", lambda *given: parts)
    for name in ("join_index", "join_traces"):
        monkeypatch.setattr(f"egptlib.hidden_states._shards.{name}", lambda *given: None)
    scenes: Any = range(70)
    (tmp_path / "shards").mkdir()
    total = extract_shards({"name": "mini"}, scenes, tmp_path, workers=1)
    assert (total.num_extracted, total.num_present, total.num_failed, total.num_ties) == (13, 21, 32, 44)
    assert total.folder == tmp_path and 0 < total.seconds < 900
    assert "32 set aside (see shards/*/failures.jsonl)" in str(total)
    assert caplog.messages == [f"4 shards joined: {total}"]


def test_workers_that_die_are_replaced_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[dict[str, Any]] = []

    class Dying:
        def __init__(self, **options: Any) -> None:
            tries.append(options)

        def __call__(self, jobs: list[Any]) -> list[Any]:
            if len(tries) < 3:
                raise TerminatedWorkerError("killed")
            return jobs

    monkeypatch.setattr("egptlib.hidden_states._shards.Parallel", Dying)
    jobs: list[Any] = [1, 2]
    assert _run(jobs, 4, None, 3) == jobs
    assert tries == [{"n_jobs": 4, "batch_size": 1}] * 3
    told = "a worker died; taking up its shards again (attempt {} of 3)"
    assert caplog.messages == [told.format(2), told.format(3)]
    tries.clear()
    line = refusal(_run, [1], 4, None, 2, kind=RuntimeError)
    assert line == "workers died in each of 2 attempts: most likely they ran out of memory"


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with:UserWarning")
def test_overlaps_are_those_after_the_rules_of_the_generation_config(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair.target.module.generation_config, "repetition_penalty", 1.7)
    extract(pair, Scenes(1), tmp_path, max_new_tokens=LENGTH, num_questions=1)
    states = HiddenStates.open(tmp_path)
    (sample,), scene = states, make_scene(0)
    ids, question = sample.token_ids, sample.metadata["question"]
    assert ids is not None and sample.overlap is not None
    given = pair.target.generate_inputs(pair.target.encode(scene, question))  # a penalty sees the answer alone
    said = pair.target.module.generate(**given, do_sample=False, max_new_tokens=LENGTH, pad_token_id=0)
    assert ids.tolist() == said[0].tolist()
    _, drafter_logits = published_forward(pair.drafter, scene, question, ids)
    _, plain = published_forward(pair.target, scene, question, ids)
    penalty = RepetitionPenaltyLogitsProcessor(1.7)
    rows = [penalty(ids[None, :t].long(), row[None].clone()) for t, row in enumerate(plain)]
    expected = overlap_loop(drafter_logits, torch.cat(rows), len(pair.vocabulary))
    assert sample.overlap.tolist() == pytest.approx(expected, abs=1e-4)
    entropies = [torch.distributions.Categorical(logits=logits).entropy() for logits in (torch.cat(rows), plain)]
    torch.testing.assert_close(sample.target_entropy, entropies[0], atol=1e-3, rtol=1e-3)
    assert (entropies[0] - entropies[1]).abs().max() > 0.01
    assert states.config["generation_config"] == {"repetition_penalty": 1.7}


def test_what_the_earlier_writer_left_out_is_empty(tmp_path: Path) -> None:
    states, path = torch.ones(2, 3, 4), tmp_path / "chunk.pt"
    texts = {"sample_idx": 7, "question": "q", "egpt_text": "a", "vl_text": "b"}
    content: dict[str, Any] = {"egpt_hidden": states, "vl_hidden": states, "seq_lens": torch.tensor([3, 1])}
    torch.save(content | {"metadata": [{}, texts]}, path)
    bare, told = LegacyChunk(path, 2).metadata()
    assert bare == {"scene": "", "question": "", "drafter_text": "", "target_text": ""}
    assert told == texts | {"scene": "7", "drafter_text": "a", "target_text": "b"}
    assert refusal(LegacyChunk(path, 3).metadata) == (f"{path}: field 'egpt_hidden' has 2 samples, index.json says 3")
    torch.save(content, path)
    fields = "egpt_hidden, vl_hidden, seq_lens, metadata"
    assert refusal(LegacyChunk(path, 2).lengths) == f"{path}: field 'metadata' is missing; expected {fields}"


@pytest.mark.parametrize("spaces", range(8))
def test_tensors_that_begin_anywhere_are_read(tmp_path: Path, spaces: int) -> None:
    """Another writer's header may have any length; what lies unaligned is copied."""
    path, values = tmp_path / "file.safetensors", torch.tensor([1.5, -2.0])
    table = {
        "bytes": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "floats": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
    }
    text = json.dumps(table).encode() + b" " * spaces
    data = len(text).to_bytes(8, "little") + text + bytes([7, 8, 9]) + values.numpy().tobytes()
    path.write_bytes(data)
    file = MappedFile(path)
    assert torch.equal(file.tensor("floats"), values) and file.tensor("bytes").tolist() == [7, 8, 9]
    assert file.told == {} and refusal(file.tensor, "ids") == f"{path}: tensor 'ids' is missing"
    path.write_bytes(data + b"x")
    told = f"{path}: not a readable safetensors file ({len(data)} bytes expected, {len(data) + 1} found)"
    assert refusal(lambda: MappedFile(path).told) == told
    path.write_bytes(data[:20])
    told = f"(a header of {len(text)} bytes in a file of 20)"
    assert refusal(lambda: MappedFile(path).told).endswith(told)


def test_a_header_that_tells_something_else_than_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    text = b'{"__metadata__": {"version": 3}}'
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert "(__metadata__ holds something else than text)" in refusal(lambda: MappedFile(path).told)


def test_a_lock_file_with_anything_in_it_still_names_the_folder(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    (tmp_path / "writer.lock").write_bytes(b"\xff other machine " + b"x" * 1000)
    told = f"{tmp_path}: another writer is at work here (\N{REPLACEMENT CHARACTER} other machine {'x' * 84}); "
    assert refusal(FolderLock, tmp_path) == told + "wait for it, or stop it"
    first.release()
    first.release()
    FolderLock(tmp_path).release()


def test_an_index_that_contradicts_itself_is_told(shared: Path, tmp_path: Path) -> None:
    legacy = shared / "golden" / "legacy_chunks"
    (problem,) = check_store(legacy)
    assert problem.damage is Damage.FOREIGN and problem == (
        f"{legacy / 'index.json'}: left by the earlier writer, which kept no checksums; see `egptlib convert`"
    )
    write(tmp_path, [make_sample(i) for i in range(4)], chunk_size=2)
    index = read_index(tmp_path)
    index["chunks"][1]["start"] = 3
    write_sealed(tmp_path / "index.json", index)
    (problem,) = check_store(tmp_path)
    chunk = "chunks/chunk_000002_000004.safetensors"
    assert problem == f"{tmp_path / 'index.json'}: {chunk} begins at 3, expected 2"


def test_an_index_is_not_rebuilt_from_chunks_of_two_runs_or_of_none(tmp_path: Path) -> None:
    told = f"{tmp_path}: no chunk to rebuild index.json from; remove the folder and start again"
    assert refusal(rebuild_index, tmp_path) == told
    write(tmp_path, [make_sample(i) for i in range(4)], chunk_size=2, config={"run": 1})
    path = tmp_path / "chunks" / "chunk_000002_000004.safetensors"
    content, (tensors, head) = path.read_bytes(), (load_file(path), path.read_bytes())
    said = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
    for change in ({"config": '{"run": 2, "dtype": "float32"}'}, {"start": "1"}):
        other = said | change
        save_file(tensors, path, other | {"checksum": chunk_checksum(other, tensors["metadata"].numpy())})
        (tmp_path / "index.json").unlink(missing_ok=True)
        told = f"{path}: belongs to another run than the chunks before it; index.json is not rebuilt"
        assert refusal(rebuild_index, tmp_path) == told and not (tmp_path / "index.json").exists()
    path.write_bytes(content)
    assert rebuild_index(tmp_path) == (
        f"{tmp_path / 'index.json'}: rebuilt from 2 chunks with 4 samples, all checksums right"
    )
    assert check_store(tmp_path, deep=True) == [] and len(HiddenStates.open(tmp_path)) == 4


def test_a_head_that_is_no_plain_one_is_refused() -> None:
    class Norm(nn.Module):
        weight = torch.ones(4)
        eps = 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    plain, norm = nn.Linear(4, 6, bias=False), Norm()
    model = SimpleNamespace(name="toy", lm_head=plain, final_norm=norm)
    assert Head.of(model).norm_eps == 1e-6 and torch.equal(Head.of(model).lm_head, plain.weight)
    model.lm_head = nn.Linear(4, 6)
    told = "toy: expected a plain lm head without bias, found Linear(in_features=4, out_features=6, bias=True)"
    assert refusal(Head.of, model) == told
    model.lm_head, model.final_norm = plain, nn.LayerNorm(4)
    assert refusal(Head.of, model) == "toy: expected an RMS norm before the lm head, found LayerNorm"


def test_states_without_prompts_are_not_converted(tmp_path: Path) -> None:
    write(tmp_path / "store", [make_sample(0)])
    line = refusal(convert_states, tmp_path / "store", tmp_path / "out")
    told = "expected samples with prompts; extract again with --layers and --prompt-rows"
    assert line == f"{tmp_path / 'store'}: {told}" and not (tmp_path / "out").exists()
    assert str(Converted(Path("out"), 1550, 516514, 437_600_000, 450_000_000, 2_304_600_000)) == (
        "converted 1,550 sequences of 516,514 positions: 437.6 MB; padded as float32 2304.6 MB; "
        "the store has 450.0 MB, 0.195 of that -> out"
    )


def test_ids_are_kept_as_they_are_or_refused(tmp_path: Path) -> None:
    """1.7 was stored as 1, 2 ** 40 as 0, and what is below -32768 came back as another number."""
    states, number = {"drafter_hidden": torch.ones(3, 4), "target_hidden": torch.ones(3, 4)}, count()

    def kept(ids: Any) -> list[int]:
        folder = tmp_path / str(next(number))
        with HiddenStateWriter(folder) as writer:
            writer.add(**states, token_ids=ids, metadata={"scene": "a", "question": "b"})
        found = HiddenStates.open(folder)[0].token_ids
        assert found is not None
        return found.tolist()

    for ids in ([5, 6, 7], [-1, 40_000, 3], [-40_000, 5, 6], [-(2**31), 5, 6]):
        for kind in (list, np.array, torch.tensor):
            assert kept(kind(ids)) == ids
    for wrong in (torch.tensor([1.7, 2, 3]), torch.tensor([2**40, 2, 3]), np.array([np.nan, 2, 3])):
        with pytest.raises(ValueError, match="scene 'a', question 'b': token_ids: expected whole numbers of 32 bits"):
            kept(wrong)
    states["drafter_hidden"] = states["drafter_hidden"] * 1j
    with pytest.raises(ValueError, match=r"drafter_hidden is torch\.complex64; expected real numbers"):
        kept([5, 6, 7])
    for name in ("chunk_size", "commit_every"):
        with pytest.raises(ValueError, match=f"{name}: expected a whole number, found 2.5"):
            HiddenStateWriter(tmp_path / "no", **{name: 2.5})  # type: ignore[arg-type]
