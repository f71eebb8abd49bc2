"""Extraction against transformers' own forward and generate, its resume, and what it does with broken samples."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from egptlib.decoding import speculative_generate
from egptlib.hidden_states import HiddenSample, HiddenStates, extract, is_complete, write_trace
from egptlib.hidden_states._extract import Extraction
from egptlib.hidden_states._index import read_index
from egptlib.hidden_states._samples import SampleMaker, figures, num_ties
from egptlib.measuring import record_agreement
from egptlib.models import EventModel, Model, Pair, Vocabulary, match_vocabularies
from egptlib.models._batch import GAMMA, BatchReader, Reading
from egptlib.models._rows import Rows
from egptlib.models._tracks import LookUp, RowDraft
from egptlib.models.mini import _sizes as mini
from egptlib.scenes import Scene, SceneFolder, frame_indices
from egptlib.scenes.streets._make import make_streets
from egptlib.traces import Trace
from tests.hidden_states.conftest import make_scene

LENGTH = 8


@dataclass
class Frames:
    """What `open_scenes` was told, as far as this test needs it."""

    num_frames: int
    sampling: Any = None


class Scenes(Sequence[Scene]):
    """A lazy folder that counts how often each scene is read; scene numbers in `broken` cannot be."""

    name = "noise"
    options: Frames | None = None

    def __init__(self, number: int) -> None:
        self.scenes = [make_scene(i) for i in range(number)]
        self.ids = [scene.id for scene in self.scenes]
        self.read = [0] * number
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, i: Any) -> Any:
        self.read[i] += 1
        if i in self.broken:
            raise ValueError(f"clip {i} is damaged")
        return self.scenes[i]

    def __iter__(self) -> Iterator[Scene]:
        return iter(self.scenes)


def published_forward(model: Model, scene: Scene, question: str, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and logits that predict `ids`, from one call of the transformers class with everything in it."""
    inputs = model.encode(scene, question)
    tokens = torch.cat([inputs.input_ids, ids[None].long()], dim=1)
    pixels = {"pixel_values_videos" if inputs.pixel_values.ndim == 5 else "pixel_values": inputs.pixel_values}
    with torch.no_grad():
        out = model.module(input_ids=tokens, **pixels, output_hidden_states=True)
    before = slice(-len(ids) - 1, -1)
    return out.hidden_states[-1][0, before], out.logits[0, before]


def published_answer(model: Model, scene: Scene, question: str) -> list[int]:
    """Greedy tokens from transformers' generate."""
    inputs = model.encode(scene, question)
    pixels = {"pixel_values_videos" if inputs.pixel_values.ndim == 5 else "pixel_values": inputs.pixel_values}
    out = model.module.generate(
        input_ids=inputs.input_ids, **pixels, do_sample=False, max_new_tokens=LENGTH, pad_token_id=0
    )
    return out[0, -LENGTH:].tolist()


def overlap_loop(drafter_logits: Tensor, target_logits: Tensor, shared: int) -> list[float]:
    rows = []
    for q, p in zip(drafter_logits.double().numpy(), target_logits.double().numpy()):
        q, p = np.exp(q - q.max()), np.exp(p - p.max())
        q, p = q / q.sum(), p / p.sum()
        rows.append(sum(min(a, b) for a, b in zip(q[:shared], p[:shared])))
    return rows


def question_of(sample: HiddenSample) -> tuple[Scene, str]:
    return make_scene(int(sample.metadata["scene"][-6:])), sample.metadata["question"]


def test_along_the_targets_path(pair: Pair, tmp_path: Path) -> None:
    result = extract(pair, Scenes(2), tmp_path, path="target", max_new_tokens=LENGTH)
    assert (result.num_extracted, result.num_present, result.num_failed) == (4, 0, 0)
    hs = HiddenStates.open(tmp_path)
    assert len({tuple(sample.token_ids.tolist()) for sample in hs if sample.token_ids is not None}) > 1
    for sample in hs:
        scene, question = question_of(sample)
        ids = sample.token_ids
        assert ids is not None and sample.drafter_top1 is not None and sample.overlap is not None
        assert ids.tolist() == published_answer(pair.target, scene, question)
        target_hidden, target_logits = published_forward(pair.target, scene, question, ids)
        drafter_hidden, drafter_logits = published_forward(pair.drafter, scene, question, ids)
        torch.testing.assert_close(sample.target_hidden, target_hidden, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(sample.drafter_hidden, drafter_hidden, rtol=1e-3, atol=1e-4)
        assert target_logits.argmax(-1).tolist() == ids.tolist()
        assert drafter_logits.argmax(-1).tolist() == sample.drafter_top1.tolist()
        expected = overlap_loop(drafter_logits, target_logits, len(pair.vocabulary))
        assert sample.overlap.tolist() == pytest.approx(expected, abs=1e-4)
        assert sample.metadata["target_text"] == pair.target.decode_text(ids)
        assert sample.metadata["reference"] == f"answer {sample.metadata['question_index']}"
        assert sample.metadata["sequence"] == scene.sequence
    trace = Trace.load(tmp_path / "trace.parquet")
    assert (trace.path, trace.pair, trace.max_new_tokens) == ("target", pair.name, LENGTH)
    assert trace.end_token_ids == tuple(sorted(pair.target.eos_token_ids)) and trace.versions["torch"]
    for row, sample in zip(trace.rows, hs, strict=True):
        assert sample.token_ids is not None and sample.drafter_top1 is not None and sample.overlap is not None
        assert sample.drafter_confidence is not None
        assert (row.sample, row.question) == (sample.metadata["scene"], sample.metadata["question"])
        assert (row.target_ids, row.drafter_ids) == (sample.token_ids.tolist(), sample.drafter_top1.tolist())
        assert (row.overlap, row.confidence) == (sample.overlap.tolist(), sample.drafter_confidence.tolist())


def test_each_on_its_own_path_is_cut_to_the_shorter(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(0)
    whole = published_answer(pair.drafter, scene, scene.questions[0])
    assert len(set(whole[:4])) == 4
    monkeypatch.setattr(pair.drafter, "eos_token_ids", frozenset([whole[3]]))  # it says all in four tokens
    extract(pair, [scene], tmp_path, path="free", max_new_tokens=LENGTH, num_questions=1)
    (sample,) = HiddenStates.open(tmp_path)
    target_ids = published_answer(pair.target, scene, scene.questions[0])
    assert sample.metadata["drafter_ids"] == whole[:4]
    assert sample.metadata["target_ids"] == target_ids
    (row,) = Trace.load(tmp_path / "trace.parquet").rows
    assert (row.target_ids, row.drafter_ids, row.overlap) == (target_ids, whole[:4], None)
    assert sample.metadata["drafter_text"] == pair.drafter.decode_text(whole[:4])
    assert sample.drafter_top1 is not None and sample.token_ids is not None and sample.overlap is not None
    assert sample.drafter_top1.tolist() == whole[:4]
    assert sample.token_ids.tolist() == target_ids[:4]
    drafter_hidden, drafter_logits = published_forward(pair.drafter, scene, scene.questions[0], torch.tensor(whole[:4]))
    target_hidden, target_logits = published_forward(
        pair.target, scene, scene.questions[0], torch.tensor(target_ids[:4])
    )
    torch.testing.assert_close(sample.drafter_hidden, drafter_hidden, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sample.target_hidden, target_hidden, rtol=1e-3, atol=1e-4)
    expected = overlap_loop(drafter_logits, target_logits, len(pair.vocabulary))
    assert sample.overlap.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("path", ["target", "free"])
def test_results_do_not_depend_on_the_batch(
    pair: Pair, tmp_path: Path, path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts and answers of several lengths: tokens equal, states within 1e-4 of one at a time."""
    scenes = Scenes(3)
    questions = ("Who?", *scenes.scenes[0].questions, "Two red people, what is it that goes there and left?")
    scenes.scenes = [replace(scene, questions=questions, answers=None) for scene in scenes.scenes]
    options: dict[str, Any] = {"path": path, "max_new_tokens": LENGTH, "layers": {"target": (2, 5), "drafter": (1,)}}
    extract(pair, scenes, tmp_path / "long", **options)
    for model, name in ((pair.drafter, "drafter_top1"), (pair.target, "token_ids")):
        said = [getattr(sample, name).tolist() for sample in HiddenStates.open(tmp_path / "long")]
        ends = {ids[1 + i % 5] for i, ids in enumerate(said[::3])}  # answers that end at several places
        monkeypatch.setattr(model, "eos_token_ids", frozenset(ends))
    for size in (1, 5, 64):
        extract(pair, scenes, tmp_path / str(size), batch_size=size, **options)
    alone = HiddenStates.open(tmp_path / "1")
    answers = [
        (s.metadata["drafter_ids"], s.metadata["target_ids"]) if path == "free" else (s.token_ids,) for s in alone
    ]
    assert len(alone) == 12 and len({tuple(map(len, ids)) for ids in answers}) > 1
    for size in (5, 64):
        for one, many in zip(alone, HiddenStates.open(tmp_path / str(size)), strict=True):
            assert one.metadata == many.metadata and one.token_ids is not None and many.token_ids is not None
            assert torch.equal(one.token_ids, many.token_ids)
            for name in ("drafter_hidden", "target_hidden", "drafter_layers", "target_layers", "overlap"):
                torch.testing.assert_close(getattr(one, name), getattr(many, name), rtol=1e-4, atol=1e-4)


def test_layers_are_those_of_transformers(pair: Pair, tmp_path: Path) -> None:
    extract(pair, Scenes(1), tmp_path, max_new_tokens=4, layers={"target": (2, 7), "drafter": (1,)})
    for sample in HiddenStates.open(tmp_path):
        scene, question = question_of(sample)
        ids = sample.token_ids
        assert ids is not None and sample.target_layers is not None and sample.drafter_layers is not None
        inputs = pair.target.encode(scene, question)
        tokens = torch.cat([inputs.input_ids, ids[None].long()], dim=1)
        with torch.no_grad():
            out = pair.target.module(
                input_ids=tokens, pixel_values_videos=inputs.pixel_values, output_hidden_states=True
            )
        expected = torch.stack([out.hidden_states[number][0, -len(ids) - 1 : -1] for number in (2, 7)], dim=1)
        torch.testing.assert_close(sample.target_layers, expected, rtol=1e-3, atol=1e-4)
        assert sample.drafter_layers.shape == (len(ids), 1, pair.drafter.hidden_size)
    with pytest.raises(ValueError, match="has layers 1 to 2"):
        extract(pair, Scenes(1), tmp_path / "other", layers={"drafter": (3,)})


def test_states_of_drafts_that_are_all_kept(pair: Pair) -> None:
    """They are the answer's, also in the first pass, for which transformers' assisted `generate` gives the prompt's."""
    scene, question, target = make_scene(1), make_scene(1).questions[0], pair.target
    prompt = target.see(target.encode(scene, question))
    plain, drafted = BatchReader(target), BatchReader(target)
    (expected,) = plain.answer(plain.prompts([[prompt]]), LENGTH)
    drafts = Noting([expected.token_ids.tolist()])
    (found,) = drafted.answer(drafted.prompts([[prompt]]), LENGTH, drafts)
    assert found.token_ids.tolist() == expected.token_ids.tolist() and drafts.counts[0] > 3
    states, _ = published_forward(target, scene, question, found.token_ids)
    torch.testing.assert_close(found.hidden, states, rtol=1e-3, atol=1e-4)


class Noting(LookUp):
    """Notes how many tokens it drafts."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        super().__init__(texts)
        self.counts = list[int]()

    def propose(self, answers: Mapping[int, Sequence[int]], counts: Mapping[int, int]) -> dict[int, RowDraft]:
        drafts = super().propose(answers, counts)
        self.counts += [len(draft.tokens) for draft in drafts.values()]
        return drafts


def test_what_followed_the_longest_run_is_looked_up_in_ones_own_text_first() -> None:
    """Against a search through all texts."""
    chance = random.Random(2)
    texts = [[chance.randrange(4) for _ in range(chance.randint(0, 12))] for _ in range(5)]
    drafts, tokens = LookUp(texts), 0
    for row in range(5):
        for length in range(8):
            answer = [chance.randrange(5) for _ in range(length)]
            places = [
                (-n, other != row, abs(place - length), other, place)
                for n in range(1, min(3, length) + 1)
                for other, text in enumerate(texts)
                for place in range(n, len(text))
                if text[place - n : place] == answer[-n:]
            ]
            expected = texts[min(places)[3]][min(places)[4] :][:4] if places else []
            assert drafts.propose({row: answer}, {row: 4})[row].tokens == expected
            tokens += len(expected)
    assert tokens > 40


def test_scenes_of_a_folder_are_read_ahead_in_another_thread_and_a_users_own_are_not(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_streets(tmp_path / "streets", "test", 1, seconds=2.0, workers=1)
    folder = SceneFolder(tmp_path / "streets")
    damaged, threads = folder.ids[1], list[bool]()
    read = SceneFolder.__getitem__

    def noted(self: SceneFolder, i: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        scene = read(self, i)
        if isinstance(scene, Scene) and scene.id == damaged:
            raise ValueError("its clip is damaged")
        return scene

    options: dict[str, Any] = {"max_new_tokens": 3, "num_questions": 2, "batch_size": 2}
    own = [scene for scene in folder if scene.id != damaged]
    extract(pair, own, tmp_path / "own", **options)
    monkeypatch.setattr(SceneFolder, "__getitem__", noted)
    result = extract(pair, folder, tmp_path / "folder", **options)
    assert (result.num_extracted, result.num_failed, threads) == (4, 1, [False] * 3)
    assert f'"scene": "{damaged}"' in (tmp_path / "folder" / "failures.jsonl").read_text()
    for ours, theirs in zip(*(HiddenStates.open(tmp_path / name) for name in ("folder", "own")), strict=True):
        assert ours.metadata["scene"] == theirs.metadata["scene"]
        torch.testing.assert_close(ours.target_hidden, theirs.target_hidden, atol=1e-4, rtol=1e-4)

    class Own(Scenes):
        def __getitem__(self, i: Any) -> Any:
            threads.append(threading.current_thread() is threading.main_thread())
            return super().__getitem__(i)

    threads.clear()
    extract(pair, Own(2), tmp_path / "other", **options)
    assert threads == [True, True]


def test_the_head_gives_the_tokens_back(pair: Pair, tmp_path: Path) -> None:
    extract(pair, Scenes(1), tmp_path, max_new_tokens=4)
    hs = HiddenStates.open(tmp_path)
    for sample in hs:
        assert sample.token_ids is not None and sample.drafter_top1 is not None
        assert hs.target_head.logits(sample.target_hidden).argmax(-1).tolist() == sample.token_ids.tolist()
        assert hs.drafter_head.logits(sample.drafter_hidden).argmax(-1).tolist() == sample.drafter_top1.tolist()


def test_a_scene_is_seen_once_and_its_answers_read_in_one_pass(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two scenes of two questions: each tower and each beginning once a scene, all rows in a pass together."""
    calls: list[str] = []

    def note(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def noting(self: Any, *arguments: Any, **options: Any) -> Any:
            of_drafter = any(getattr(self, "model", self) is own for own in (pair.drafter, pair.drafter.module.model))
            of_drafter |= self is pair.drafter.module
            calls.append(f"{'drafter' if of_drafter else 'target'} {name}")
            return original(self, *arguments, **options)

        monkeypatch.setattr(owner, name, noting)

    note(type(pair.target), "encode_frames")
    note(type(pair.drafter.module), "encode_events")
    note(Model, "prefill")
    note(Rows, "read")

    def whole(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the model's own forward would give every layer of every position")

    for model in (pair.drafter, pair.target):
        monkeypatch.setattr(type(model.language_model), "forward", whole)
    result = extract(pair, Scenes(2), tmp_path, max_new_tokens=LENGTH, num_questions=2)
    assert result.num_extracted == 4
    counts = {name: calls.count(name) for name in calls}
    verified = counts.pop("target read")
    assert verified <= LENGTH  # the prompts, then at least a token a pass
    assert counts.pop("drafter read") <= 2 + GAMMA * verified  # the prompts, drafts, and what is left of the answers
    assert counts == {"target encode_frames": 2, "drafter encode_events": 2, "target prefill": 2, "drafter prefill": 2}


def test_ties_are_counted_and_told(pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "egptlib")
    logits = torch.tensor([[4.0, 4.0, 0.0], [4.0, 3.9, 0.0], [4.0, 3.5, 0.0]])
    assert (num_ties(logits), num_ties(logits.bfloat16())) == (1, 2)
    head = pair.target.lm_head.weight
    before = head.detach().clone()
    with torch.no_grad():
        head.zero_()  # every token as likely as any other
    try:
        result = extract(pair, Scenes(1), tmp_path, max_new_tokens=3, num_questions=2)
    finally:
        with torch.no_grad():
            head.copy_(before)
    assert result.num_ties == sum(map(len, HiddenStates.open(tmp_path))) > 0
    assert f", {result.num_ties} positions tied within rounding" in caplog.text


def test_where_memory_runs_out_the_batch_is_halved(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original, sizes = SampleMaker.make, []

    def make(self: SampleMaker, rows: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, rows)

    monkeypatch.setattr(SampleMaker, "make", make)
    result = extract(pair, Scenes(4), tmp_path, max_new_tokens=2, num_questions=2, batch_size=4)
    assert (result.num_extracted, result.num_failed) == (8, 0)
    assert sizes == [4, 2, 2, 2, 2]
    assert "out of memory with 4 samples at once; going on with 2" in caplog.text


def test_a_signal_commits_and_ends_the_run(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options: dict[str, Any] = {"max_new_tokens": 2, "num_questions": 2, "batch_size": 4}
    extract(pair, Scenes(5), whole, **options)
    original = SampleMaker.make
    for number in (signal.SIGINT, signal.SIGTERM):

        def make(self: SampleMaker, rows: Any, number: int = number) -> Any:
            os.kill(os.getpid(), number)
            return original(self, rows)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(SampleMaker, "make", make)
            extract(pair, Scenes(5), parts, **options)
    assert len(HiddenStates.open(parts)) == 8
    extract(pair, Scenes(5), parts, **options)
    for name in ("index.json", "chunks/chunk_000000_000010.safetensors", "trace.parquet"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_many_failures_in_a_row_end_the_run(pair: Pair, tmp_path: Path) -> None:
    scenes = Scenes(4)
    scenes.broken = {0, 1, 2, 3}
    with pytest.raises(RuntimeError, match="3 failures in a row, the last one: scene seq_1/000002: clip 2 is"):
        extract(pair, scenes, tmp_path, max_failures_in_row=3)


def test_figures_at_their_ends() -> None:
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)) * 4
    same = figures(logits, logits)
    assert torch.allclose(same["overlap"], torch.ones(5))
    reference = torch.distributions.Categorical(logits=logits)
    assert torch.allclose(same["target_entropy"], reference.entropy(), atol=1e-6)
    assert torch.allclose(same["drafter_confidence"], reference.probs.max(-1).values)
    apart = torch.full((1, 30), -100.0).repeat(2, 1)
    apart[0, 3] = apart[1, 4] = 100.0
    sure = figures(apart[:1], apart[1:])
    assert [sure[name].item() for name in ("overlap", "drafter_confidence", "target_entropy")] == [0.0, 1.0, 0.0]
    # what the drafter cannot say can never agree
    lacks = apart[1:].index_fill(1, torch.tensor([3]), -torch.inf)
    assert figures(lacks, apart[:1])["overlap"].item() == 0.0
    assert all(value.dtype == torch.float32 for value in figures(logits.bfloat16(), logits.bfloat16()).values())


def test_a_stopped_run_is_taken_up_and_ends_the_same(pair: Pair, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    extract(pair, Scenes(3), whole, max_new_tokens=4)
    scenes = Scenes(3)
    first = extract(pair, scenes, parts, max_new_tokens=4, questions=[scenes[0].questions[1]], chunk_size=2)
    scenes.read = [0, 0, 0]
    second = extract(pair, scenes, parts, max_new_tokens=4, num_questions=2)
    assert (first.num_extracted, second.num_extracted, second.num_present) == (3, 3, 3)
    stored = {(s.metadata["scene"], s.metadata["question"]): s for s in HiddenStates.open(parts)}
    assert len(stored) == 6
    for sample in HiddenStates.open(whole):
        other = stored[sample.metadata["scene"], sample.metadata["question"]]
        assert sample.metadata == other.metadata
        torch.testing.assert_close(sample.drafter_hidden, other.drafter_hidden, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sample.target_hidden, other.target_hidden, rtol=1e-5, atol=1e-5)

    assert is_complete(parts, scenes, num_questions=2)
    assert not is_complete(parts, scenes, num_questions=3)
    assert not is_complete(parts, Scenes(4), num_questions=2)
    assert not is_complete(tmp_path / "none", scenes, num_questions=2)

    scenes.read = [0, 0, 0]
    third = extract(pair, scenes, parts, max_new_tokens=4, num_questions=2)
    assert (third.num_extracted, third.num_present) == (0, 6)
    assert scenes.read == [0, 0, 0]  # what is complete is not even opened
    assert {(row.sample, row.question) for row in Trace.load(parts / "trace.parquet").rows} == set(stored)
    written = (parts / "trace.parquet").stat().st_mtime_ns
    assert write_trace(parts).stat().st_mtime_ns == written  # complete already
    (parts / "trace.parquet").write_bytes(b"cut off")
    assert len(Trace.load(write_trace(parts))) == 6


def test_other_questions_do_not_make_a_scene_complete(pair: Pair, tmp_path: Path) -> None:
    scenes = Scenes(1)
    extract(pair, scenes, tmp_path, max_new_tokens=3, questions=["How many?", "Where?"])
    assert not is_complete(tmp_path, scenes, num_questions=2)
    result = extract(pair, scenes, tmp_path, max_new_tokens=3, num_questions=2)
    assert (result.num_extracted, result.num_present) == (2, 0)
    result = extract(pair, scenes, tmp_path, max_new_tokens=3, questions=["Where?", "When?"])
    assert (result.num_extracted, result.num_present) == (1, 1)
    asked = [sample.metadata["question"] for sample in HiddenStates.open(tmp_path)]
    assert asked == ["How many?", "Where?", *scenes.scenes[0].questions, "When?"]


def test_other_settings_and_other_weights_are_refused(pair: Pair, tmp_path: Path) -> None:
    extract(pair, Scenes(1), tmp_path, max_new_tokens=3, num_questions=1)
    with pytest.raises(ValueError, match="field 'path' is 'target' in this folder and 'free' now"):
        extract(pair, Scenes(1), tmp_path, path="free", max_new_tokens=3)
    with pytest.raises(ValueError, match="field 'max_new_tokens' is 3 in this folder and 4 now"):
        extract(pair, Scenes(1), tmp_path, max_new_tokens=4)
    weight = pair.target.final_norm.weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight[0] += 1
    try:
        with pytest.raises(ValueError, match="field 'target_weights' is"):
            extract(pair, Scenes(1), tmp_path, max_new_tokens=3)
    finally:
        with torch.no_grad():
            weight[0] -= 1
    other = Scenes(1)
    other.name = "other"
    with pytest.raises(ValueError, match="field 'dataset' is 'noise' in this folder and 'other' now"):
        extract(pair, other, tmp_path, max_new_tokens=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair.target.module.config, "quantization_config", "nf4", raising=False)
        with pytest.raises(ValueError, match="field 'quantization' is None in this folder and 'nf4' now"):
            extract(pair, Scenes(1), tmp_path, max_new_tokens=3)
    framed = Scenes(1)
    framed.options = Frames(8, sampling=frame_indices)
    extract(pair, framed, tmp_path / "framed", max_new_tokens=3, num_questions=1)
    config = read_index(tmp_path / "framed")["config"]
    names = "dataset drafter_weights dtype layers max_new_tokens num_frames pair path quantization sampling"
    assert sorted(config) == [*names.split(), "target_weights"] and config["sampling"] == "own"
    framed.options = Frames(16)
    with pytest.raises(ValueError, match="field 'num_frames' is 8 in this folder and 16 now"):
        extract(pair, framed, tmp_path / "framed", max_new_tokens=3, num_questions=1)
    with pytest.raises(ValueError, match="path 'both': expected one of target, free"):
        extract(pair, Scenes(1), tmp_path, path="both")


def test_broken_samples_are_set_aside_and_tried_again(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "egptlib")
    scenes = Scenes(3)
    scenes.broken = {1}
    original = type(pair.target).encode

    def encode(self: Model, scene: Scene, question: str, like: Any = None) -> Any:
        if scene.id == scenes.ids[2] and question.startswith("Who"):
            raise RuntimeError("out of memory")
        return original(self, scene, question, like)

    with monkeypatch.context() as patch:
        patch.setattr(type(pair.target), "encode", encode)
        result = extract(pair, scenes, tmp_path, max_new_tokens=3)
    assert (result.num_extracted, result.num_failed) == (3, 2)
    assert re.fullmatch(
        rf"extracted 3 pairs in [\d.]+ s \([\d.]+ a second\), 2 set aside \(see failures.jsonl\) -> {tmp_path}",
        caplog.messages[-1],
    )
    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert failures == [
        {"scene": scenes.ids[1], "question": "", "reason": "ValueError: clip 1 is damaged"},
        {"scene": scenes.ids[2], "question": "Who is moving?", "reason": "RuntimeError: out of memory"},
    ]
    scenes.broken = set()
    result = extract(pair, scenes, tmp_path, max_new_tokens=3)
    assert (result.num_extracted, result.num_present, result.num_failed) == (0, 3, 2)
    result = extract(pair, scenes, tmp_path, max_new_tokens=3, retry_failed=True)
    assert (result.num_extracted, result.num_present, result.num_failed) == (3, 3, 0)
    assert (tmp_path / "failures.jsonl").read_text() == ""
    assert len(HiddenStates.open(tmp_path)) == 6


def test_a_question_that_is_no_unicode_is_set_aside_and_the_others_are_stored(pair: Pair, tmp_path: Path) -> None:
    questions = ["What is moving?", "caf\ud800?", "Who is moving?"]
    for again in (False, True):
        result = extract(pair, Scenes(2), tmp_path, max_new_tokens=3, questions=questions)
        assert (result.num_extracted, result.num_failed) == (0 if again else 4, 2)
    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [failure["question"] for failure in failures] == ["caf\ud800?"] * 2
    assert len(Trace.load(tmp_path / "trace.parquet")) == 4


def test_states_that_are_no_numbers_are_set_aside(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = BatchReader.read

    def read(*arguments: Any) -> list[Reading]:
        return [replace(reading, hidden=reading.hidden * torch.nan) for reading in original(*arguments)]

    monkeypatch.setattr(BatchReader, "read", read)
    result = extract(pair, [make_scene(0)], tmp_path, max_new_tokens=3, num_questions=1)
    assert result.num_failed == 1
    assert "drafter_hidden is not finite" in (tmp_path / "failures.jsonl").read_text()


def test_a_full_disk_ends_the_run(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_file(*arguments: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("egptlib.hidden_states._writer.write_chunk", save_file)
    with pytest.raises(OSError, match="no space left"):
        extract(pair, Scenes(2), tmp_path, max_new_tokens=2, chunk_size=1)


@pytest.fixture(scope="module")
def two_vocabularies(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same random models; the drafter's tokens are those of another language."""
    folder = tmp_path_factory.mktemp("other") / "drafter"
    pair.drafter.module.save_pretrained(folder)
    tokenizer = mini.train_tokenizer(["Qu'est-ce qui bouge ? Une voiture rouge va à gauche. ASSISTANT: USER: deux"] * 3)
    mini.wrap_tokenizer(tokenizer, for_target=False).save_pretrained(folder)
    drafter = EventModel.from_pretrained(folder, dtype=torch.float32)
    return replace(pair, drafter=drafter, vocabulary=match_vocabularies(drafter, pair.target))


def test_the_drafter_reads_the_targets_words_in_its_own_tokens(two_vocabularies: Pair, tmp_path: Path) -> None:
    """Position by position: one pass over the words before it, each spelled by hand, and what both can say of it."""
    pair, scene = two_vocabularies, make_scene(0)
    drafter, target = pair.drafter, pair.target
    assert not pair.vocabulary.is_shared
    extract(pair, [scene], tmp_path, max_new_tokens=LENGTH, layers={"drafter": (1,)})
    spelled, at = 0, 0
    own = drafter.tokenizer.get_vocab()
    common = {theirs: own[name] for name, theirs in target.tokenizer.get_vocab().items() if name in own}
    for sample in HiddenStates.open(tmp_path):
        assert sample.token_ids is not None and sample.drafter_top1 is not None and sample.drafter_layers is not None
        words: list[int] = []
        for t, token in enumerate(sample.token_ids.tolist()):
            hidden, logits = published_forward(drafter, scene, sample.metadata["question"], torch.tensor([*words, 0]))
            torch.testing.assert_close(sample.drafter_hidden[t], hidden[-1], rtol=1e-3, atol=1e-4)
            said = max(common, key=lambda theirs: logits[-1, common[theirs]].item())
            assert sample.drafter_top1[t] == said
            at += 1
            if token in common:
                words.append(common[token])
            else:
                text = target.tokenizer.decode([token])
                assert "\ufffd" not in text
                words += drafter.tokenizer(text, add_special_tokens=False).input_ids
                spelled += 1
        assert len(sample.drafter_layers) == len(sample.token_ids)
    assert 0 < spelled < at
    ids = [token for sample in HiddenStates.open(tmp_path) for token in sample.token_ids.tolist()]  # type: ignore[union-attr]
    assert pair.vocabulary.writable(ids) == 1 - spelled / at


def test_replay_along_two_vocabularies_is_what_the_loop_does(two_vocabularies: Pair, tmp_path: Path) -> None:
    pair, scene = two_vocabularies, make_scene(1)
    extract(pair, [scene], tmp_path, max_new_tokens=LENGTH)
    recorded = record_agreement(pair.target, pair.drafter, [(scene, q) for q in scene.questions], LENGTH)
    for i, sample in enumerate(HiddenStates.open(tmp_path)):
        n = len(sample)
        assert sample.match.tolist() == recorded.match[i, :n].tolist()
        made = speculative_generate(
            pair.target, pair.drafter, scene, sample.metadata["question"], gamma=3, max_new_tokens=LENGTH
        )
        assert made.token_ids.tolist() == sample.token_ids.tolist()  # type: ignore[union-attr]


def test_the_free_path_tells_the_drafters_words_in_the_targets_ids(two_vocabularies: Pair, tmp_path: Path) -> None:
    pair, scene = two_vocabularies, make_scene(0)
    known, own = pair.vocabulary, published_answer(pair.drafter, scene, scene.questions[0])
    kept = torch.stack([known.drafter_ids, known.target_ids], dim=1)[known.drafter_ids != own[1]]
    specials = pair.target.eos_token_ids
    narrow = Vocabulary(kept, known.drafter_tokenizer, known.target_tokenizer, known.target_size, specials)
    extract(replace(pair, vocabulary=narrow), [scene], tmp_path, path="free", max_new_tokens=LENGTH, num_questions=1)
    (sample,) = HiddenStates.open(tmp_path)
    names = pair.drafter.tokenizer.convert_ids_to_tokens(own)
    expected = [-1 if i == own[1] else pair.target.tokenizer.convert_tokens_to_ids(n) for i, n in zip(own, names)]
    assert sample.metadata["drafter_ids"] == expected and sample.drafter_top1 is not None
    assert sample.drafter_top1.tolist() == expected[: len(sample)]
    assert sample.metadata["drafter_text"] == pair.drafter.decode_text(own)


def test_the_line_says_long_times_in_minutes_and_hours() -> None:
    text = str(Extraction(Path("out"), 660, 40, 0, 192.4))
    assert text == "extracted 660 pairs in 3 min 12 s (3.4 a second), 40 were there already -> out"
    assert "in 2 h 0 min" in str(Extraction(Path("out"), 1, 0, 0, 7229.0))


def test_reading_does_not_import_the_models() -> None:
    code = "import sys, egptlib.hidden_states; print('transformers' in sys.modules, 'av' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_pictures_are_let_go_of_scenes_that_have_them(pair: Pair) -> None:
    """A user's own models may read scenes of another kind, of which everything is kept."""

    class Words:
        def encode(self, scene: Any, question: str) -> Any:
            return [*scene.words, question]

    maker = SampleMaker(pair, "target", 3, {})
    maker.pair = SimpleNamespace(drafter=Words(), target=Words())  # type: ignore[assignment]
    scene: Any = SimpleNamespace(id="s", words=["a", "b"])
    seen: Any = maker.look(scene, "c")
    assert seen.scene is scene and seen.inputs == {side: ["a", "b", "c"] for side in ("drafter", "target")}
    maker.pair, scene = pair, make_scene(0)
    kept = maker.look(scene, scene.questions[0]).scene
    assert len(kept.frames) == len(kept.event_images) == 0 < len(scene.frames) and kept.id == scene.id


def test_what_would_be_left_out_or_taken_apart_is_refused(pair: Pair, tmp_path: Path) -> None:
    """The second of two scenes of one id counted as done; of one question every letter was asked."""
    with pytest.raises(ValueError, match="expected one of each id, found 2 of "):
        extract(pair, [make_scene(0), make_scene(1), make_scene(0)], tmp_path / "out")
    with pytest.raises(ValueError, match="questions: expected a list of texts, found one text: 'Where"):
        extract(pair, [make_scene(0)], tmp_path / "out", questions="Where?")
    with pytest.raises(ValueError, match=r"max_new_tokens: expected a whole number, found 2.5"):
        extract(pair, [make_scene(0)], tmp_path / "out", max_new_tokens=2.5)
    assert not (tmp_path / "out").exists()
