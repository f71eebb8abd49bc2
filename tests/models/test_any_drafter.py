"""Whatever drafts for a target that reads more than embeddings (Qwen2.5-VL, another vocabulary): its own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import transformers

from egptlib.adapters import create_adapter
from egptlib.decoding import (
    AdapterDrafter,
    Drafter,
    DrafterThread,
    HeadDrafter,
    NgramDrafter,
    Recorder,
    Sampling,
    as_drafter,
    hidden_prefill_generate,
    pipelined_generate,
    speculative_generate,
)
from egptlib.models import Matching, Model, Pair, VideoModel, load_pair, open_model

from .families import FAMILIES, WORDS, make_words, save, scene_of_noise, text_fields
from .test_families import LIMIT, QUESTION, generated

KINDS = ("eventgpt", "video_llava", "language_model")


@pytest.fixture(scope="module")
def scene() -> Any:
    return scene_of_noise()


@pytest.fixture(scope="module")
def target_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return FAMILIES["qwen2_5_vl"](tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest,
    target_folder: Path,
    event_checkpoint: Path,
    video_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("drafter")
    if request.param == "language_model":
        words = make_words((), WORDS["llama"])
        module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text_fields(words)))
        save(folder, module, words, None)
    else:
        folder = {"eventgpt": event_checkpoint, "video_llava": video_checkpoint}[request.param]
    return load_pair(drafter=folder, target=target_folder, dtype="float32")


HOT: dict[str, Any] = {"sampling": Sampling(0.7, top_k=20), "gamma": 3, "max_new_tokens": LIMIT}


def check_lossless(target: Model, drafter: Drafter, scene: Any, expected: list[int]) -> None:
    for gamma in (3, 8):
        found = speculative_generate(target, drafter, scene, QUESTION, gamma=gamma, max_new_tokens=LIMIT)
        assert found.token_ids.tolist() == expected
    assert found.num_drafted_tokens > 0
    drawn = speculative_generate(target, drafter, scene, QUESTION, generator=torch.Generator(), **HOT)
    assert len(drawn.token_ids) == LIMIT


@pytest.mark.parametrize("matching", get_args(Matching))
def test_answers_are_the_targets_own(pair: Pair, scene: Any, matching: Matching) -> None:
    target = pair.target
    assert not pair.vocabulary.is_shared
    expected, drafter = generated(target, scene, QUESTION), as_drafter(pair.drafter, target, matching)
    check_lossless(target, drafter, scene, expected)
    with DrafterThread(drafter, target.eos_token_ids) as beside:
        for way in (hidden_prefill_generate, pipelined_generate):
            assert way(target, beside, scene, QUESTION, max_new_tokens=LIMIT).token_ids.tolist() == expected


def head_or_aligner(pair: Pair, level: str) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "drafter_size": pair.drafter.hidden_size, "num_heads": 4, "ffn_dim": 64}
    adapter: Any = create_adapter(level, **sizes, bottleneck=16)
    kind: Any = HeadDrafter if adapter.runs_ahead else AdapterDrafter
    layers = {"source_layers": (1, 2, 3)} if level == "E3" else {}
    return kind(pair.drafter, adapter, pair.target, pair.vocabulary, **layers)


@pytest.mark.parametrize("pair", ["eventgpt"], indirect=True)
def test_so_they_are_with_heads_adapters_and_n_grams(pair: Pair, scene: Any) -> None:
    target = pair.target
    expected = generated(target, scene, QUESTION)
    for level in ("L1", "L4", "L5F", "E3"):
        check_lossless(target, head_or_aligner(pair, level), scene, expected)
    ngrams = NgramDrafter(target.tokenizer)
    found = speculative_generate(target, ngrams, scene, QUESTION, max_new_tokens=LIMIT)
    assert found.token_ids.tolist() == expected


@pytest.mark.parametrize("pair", ["eventgpt"], indirect=True)
@pytest.mark.parametrize("level", ["L5", "L5F"])
def test_a_head_reads_the_state_before_each_of_the_targets_tokens(pair: Pair, scene: Any, level: str) -> None:
    """Whatever the drafter needs to spell them: L5 the state before a token, L5F the one behind it."""
    answer = generated(pair.target, scene, QUESTION)
    spelled = [pair.vocabulary.to_drafter(answer[:i]) for i in range(LIMIT + 1)]
    assert len(spelled[-1]) > len(answer)  # some are spelled in several tokens
    own = head_or_aligner(pair, level)
    own.start(scene, QUESTION, Recorder())
    hidden = pair.target.greedy(scene, QUESTION, LIMIT).hidden
    own.watch(hidden, hidden[:, None][:, :0])
    rows = own._rows(answer, 0)[own.head.inputs.index("drafter_hidden")]
    shift = own.head.drafter_shift
    state, expected = pair.drafter.start(scene, QUESTION), []
    begin = state.length
    for tokens in spelled[shift : LIMIT + shift]:
        pair.drafter.rollback(state, begin)
        read = pair.drafter.read(torch.tensor([tokens]), state)[0, -1] if tokens else state.hidden[0, -1]
        expected.append(read)
    torch.testing.assert_close(rows, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_video_llava_drafts_from_event_images(video_checkpoint: Path, scene: Any) -> None:
    drafter = open_model(video_checkpoint, "events", dtype=torch.float32)
    assert isinstance(drafter, VideoModel) and drafter.form == "images"
    inputs = drafter.encode(scene, QUESTION)
    assert inputs.pixel_values.shape[:2] == (2, 3)  # two event images, not the frames
    shown = drafter.tokenizer.decode(inputs.input_ids[0])
    picture = "<image>" * 4
    assert shown == f"<s>USER: {picture}\n{picture}\n{QUESTION} ASSISTANT:"
    answer = drafter.greedy(scene, QUESTION, LIMIT).token_ids.tolist()
    for way in (None, "ids"):
        given = drafter.generate_inputs(inputs, way)
        out = drafter.module.generate(**given, do_sample=False, max_new_tokens=LIMIT)[0].tolist()
        assert out[-len(answer) :] == answer
    again = drafter.encode(None, "Who?", like=inputs)
    assert again.pixel_values is inputs.pixel_values
