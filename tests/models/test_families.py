"""Each family of vision-language models, as target and as drafter, against transformers: its own processors (golden
values: they need torchvision), its `generate`, its `output_hidden_states`. Tiny random checkpoints of the classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
import transformers
from safetensors.torch import load_file

from egptlib.decoding import (
    Draft,
    DrafterThread,
    ModelDrafter,
    Sampling,
    SequenceDrafter,
    TreeShape,
    as_drafter,
    hidden_prefill_generate,
    pipelined_generate,
    speculative_generate,
)
from egptlib.hidden_states import HiddenStates, extract
from egptlib.models import (
    Matching,
    Model,
    Pair,
    PairSettings,
    Prompt,
    VisionLanguageModel,
    check_against_generate,
    common_vocabulary,
    frame_sampling,
    load_pair,
    open_model,
)
from egptlib.models._processors import spelled
from egptlib.scenes import Scene, open_scenes

from .families import FAMILIES, WORDS, make_words, save, scene_of_noise, text_fields

LIMIT = 12
CLIPS = ("internvl", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm")
GOLDEN = Path(__file__).parent / "golden" / "processors.safetensors"
QUESTION = "What moves?"


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return FAMILIES[request.param](tmp_path_factory.mktemp("families") / request.param)


@pytest.fixture(scope="module")
def target(folder: Path) -> Model:
    return open_model(folder, "frames", dtype=torch.float32)


@pytest.fixture(scope="module")
def drafter(folder: Path) -> Model:
    return open_model(folder, "events", dtype=torch.float32)


@pytest.fixture(scope="module")
def scene() -> Any:
    return scene_of_noise()


def generated(model: Model, scene: Any, question: str, **options: Any) -> list[int]:
    """transformers' own answer, from ids and pixel values."""
    given = model.generate_inputs(model.encode(scene, question))
    with torch.no_grad():
        out = model.module.generate(**given, max_new_tokens=LIMIT, **({"do_sample": False} | options))
    answer: list[int] = out[0, given["input_ids"].shape[1] :].tolist()
    return answer


def whole_pass(model: Model, scene: Any, question: str, answer: list[int]) -> list[torch.Tensor]:
    """`output_hidden_states` of one pass over prompt and answer: for each layer the states [n, H] before its tokens."""
    given, n = model.generate_inputs(model.encode(scene, question)), len(answer)
    whole = torch.cat([given["input_ids"], torch.tensor([answer])], dim=1)
    kinds = {name: given[name] for name in given if name in ("mm_token_type_ids", "token_type_ids")}
    kinds = {name: torch.cat([ids, torch.zeros(1, n).to(ids)], dim=1) for name, ids in kinds.items()}
    given |= kinds | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    with torch.no_grad():
        states = model.module(**given, output_hidden_states=True).hidden_states
    return [layer[0, -n - 1 : -1] for layer in states]


class Erring:
    """Proposes the reference with every third token wrong: drafts that are kept in part, roll-backs at all lengths."""

    device, name = torch.device("cpu"), "erring"

    def __init__(self, reference: Sequence[int]):
        self.reference = list(reference)
        self.tokens = [token if i % 3 else token + 1 for i, token in enumerate(reference, 2)]

    def start(self, *_: Any) -> None: ...

    def propose(self, answer: Sequence[int], count: int, *_: Any) -> Draft:
        return Draft(self.tokens[len(answer) : len(answer) + count], [1.0] * count)

    def propose_tree(self, answer: Sequence[int], shape: TreeShape, depth: int, *_: Any) -> Draft:
        """Along the reference, beside a wrong sibling of each token that comes first."""
        tokens = [token for right in self.reference[len(answer) :][:depth] for token in (right + 1, right)]
        return Draft(tokens, [1.0] * len(tokens), parents=[2 * (node // 2) - 1 for node in range(len(tokens))])


DRAWN = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 1.0}


def check_drawing(target: Model, scene: Any, question: str, seed: int) -> None:
    """With `generate`'s seed its own draws, drafts or not: chance is spent position by position."""
    torch.manual_seed(seed)
    expected = generated(target, scene, question, **DRAWN)
    drawn = speculative_generate(
        target, SequenceDrafter(), scene, question, max_new_tokens=LIMIT, sampling=Sampling(temperature=0.7, top_k=20),
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    assert drawn.token_ids.tolist() == expected


def check_extraction(pair: Pair, scenes: Sequence[Any], folder: Path) -> None:
    """Stored states of the target are `output_hidden_states` of one whole pass, answers `generate`'s."""
    limits: dict[str, Any] = {"max_new_tokens": LIMIT, "dtype": "float32", "batch_size": 2}
    extract(pair, scenes, folder, layers={"target": (1, 2)}, num_questions=len(scenes[0].questions), **limits)
    by_id = {scene.id: scene for scene in scenes}
    samples = HiddenStates.open(folder)
    assert len(samples) == sum(len(scene.questions) for scene in scenes)
    for sample in samples:
        assert sample.token_ids is not None
        assert sample.target_layers is not None
        scene, question = by_id[sample.metadata["scene"]], sample.metadata["question"]
        answer = sample.token_ids.tolist()
        assert answer == generated(pair.target, scene, question)
        states = whole_pass(pair.target, scene, question, answer)
        torch.testing.assert_close(sample.target_hidden, states[-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(sample.target_layers, torch.stack(states[1:3], 1), atol=1e-4, rtol=1e-4)


def check_decoding(target: Model, drafter: Model, prompts: Sequence[tuple[Any, str]]) -> None:
    """Every way of decoding gives `generate`'s tokens; an answer's states are `output_hidden_states`."""
    own = ModelDrafter(drafter, common_vocabulary(drafter, target))
    for seed, (scene, question) in enumerate(prompts):
        check_drawing(target, scene, question, seed)
        expected = generated(target, scene, question)
        assert len(set(expected)) > 3  # not one token for ever
        answer = target.greedy(scene, question, LIMIT)
        assert answer.token_ids.tolist() == expected
        for gamma in (3, 8):
            found = speculative_generate(target, Erring(expected), scene, question, gamma=gamma, max_new_tokens=LIMIT)
            assert found.token_ids.tolist() == expected
            assert {r.accepted for r in found.rounds} >= {2}
        tree = TreeShape(8, 4, 2)
        if getattr(target.language_model.config, "sliding_window", None):
            with pytest.raises(ValueError, match=r"has layers with a window: drafts have to be chains"):
                speculative_generate(target, Erring(expected), scene, question, gamma=tree, max_new_tokens=LIMIT)
        else:
            found = speculative_generate(target, Erring(expected), scene, question, gamma=tree, max_new_tokens=LIMIT)
            assert found.token_ids.tolist() == expected
            assert {r.accepted for r in found.rounds} >= {4}
        with DrafterThread(own, target.eos_token_ids) as running:
            for way in (hidden_prefill_generate, pipelined_generate):
                assert way(target, running, scene, question, max_new_tokens=LIMIT).token_ids.tolist() == expected

        states = whole_pass(target, scene, question, expected)[-1]
        torch.testing.assert_close(answer.hidden, states, atol=1e-4, rtol=1e-4)
        read, _ = target.forward_answer(target.encode(scene, question), expected)
        torch.testing.assert_close(read, states, atol=1e-4, rtol=1e-4)


def test_decoding_equals_generate(target: Model, drafter: Model, scene: Any) -> None:
    check_decoding(target, drafter, [(scene, QUESTION)])


@pytest.fixture(scope="module")
def two_families(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """SmolVLM on event images drafts for Qwen2.5-VL on a clip: another family, another vocabulary."""
    folder = tmp_path_factory.mktemp("two")
    torch.manual_seed(0)
    for family in ("smolvlm", "qwen2_5_vl"):
        FAMILIES[family](folder / family)
    return load_pair(drafter=folder / "smolvlm", target=folder / "qwen2_5_vl", dtype="float32")


@pytest.mark.parametrize("matching", get_args(Matching))
def test_two_families_with_two_vocabularies(two_families: Pair, scene: Any, matching: Matching) -> None:
    target, drafter = two_families.target, two_families.drafter
    assert (drafter.name, target.name, two_families.name) == ("SmolVLM", "Qwen2_5_VL", "smolvlm-qwen2_5_vl")
    assert not two_families.vocabulary.is_shared
    expected = generated(target, scene, QUESTION)
    own = as_drafter(drafter, target, matching)
    for gamma in (3, 8):
        found = speculative_generate(target, own, scene, QUESTION, gamma=gamma, max_new_tokens=LIMIT)
        assert found.token_ids.tolist() == expected


def test_extraction_keeps_the_states_of_the_whole_pass(two_families: Pair, scene: Any, tmp_path: Path) -> None:
    more = {"id": "a/0", "sequence": "a", "questions": (QUESTION, "Who?")}
    check_extraction(two_families, [Scene(**vars(scene) | more)], tmp_path / "states")


@pytest.mark.slow
def test_decoding_equals_generate_on_streets(target: Model, drafter: Model, tmp_path: Path) -> None:
    scenes = open_scenes("streets", event_views=5, num_sequences=6, sampling=target.sampling).spread(12)
    check_decoding(target, drafter, [(scene, scene.questions[i % 3]) for i, scene in enumerate(scenes)])
    pair = Pair("noise", drafter, target, common_vocabulary(drafter, target))
    asked = [replace(scene, questions=scene.questions[i % 3 :][:1]) for i, scene in enumerate(scenes)]
    check_extraction(pair, asked, tmp_path / "states")


def test_a_drafters_states_and_answer_are_its_own(drafter: Model, scene: Any) -> None:
    assert isinstance(drafter, VisionLanguageModel)
    assert drafter.form == "images"
    assert drafter.greedy(scene, QUESTION, LIMIT).token_ids.tolist() == generated(drafter, scene, QUESTION)


def test_sampling_draws_what_generate_draws(target: Model, scene: Any) -> None:
    for seed in range(1, 3):  # the first is tried above
        check_drawing(target, scene, QUESTION, seed)


@pytest.mark.parametrize(
    ("folder", "form"),
    [(family, form) for family in FAMILIES for form in ("images", "video") if form == "images" or family in CLIPS],
    indirect=["folder"],
)
def test_prompts_are_those_of_transformers_own_processors(folder: Path, scene: Any, form: Any) -> None:
    """Ids, grids and sizes exactly; pixels within two grey levels, by which PIL and torchvision resize differently."""
    model = open_model(folder, "frames", form=form, dtype=torch.float32)
    shown = scene if form == "video" else SimpleNamespace(frames=scene.frames[:2], metadata={})
    inputs: Any = model.encode(shown, QUESTION)
    found = {"input_ids": inputs.input_ids, **inputs.fields}
    prefix = f"{folder.name}.{'video' if form == 'video' else 'image'}."
    expected = {key.removeprefix(prefix): value for key, value in load_file(GOLDEN).items() if key.startswith(prefix)}
    assert {"input_ids"} < set(expected) <= set(found)
    for name, value in expected.items():
        ours = torch.as_tensor(found[name])
        if name.startswith("pixel"):
            difference = (ours.flatten()[::61] - value.float()).abs()
            assert difference.max() < 0.032
            assert difference.mean() < 0.002
        else:
            torch.testing.assert_close(ours.double(), value.double())


def test_further_questions_reuse_the_pictures(target: Model, scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(target, VisionLanguageModel)
    first = target.encode(scene, QUESTION)
    target.prefill(first)
    other = "Which colour has the truck?"
    afresh = target.prefill(target.encode(scene, other)).logits
    kind = target.processor.video_processor if target.form == "video" else target.processor.image_processor
    monkeypatch.setattr(kind, "inner", _Refusing(kind.inner))
    monkeypatch.setattr("egptlib.models._vision_language._see", None)
    torch.testing.assert_close(target.prefill(target.encode(None, other, like=first)).logits, afresh)


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "position_ids": lambda given: torch.arange(given["position_ids"].shape[-1])[None],
    "deepstack_visual_embeds": lambda given: [0 * visual for visual in given["deepstack_visual_embeds"]],
    "attention_mask": lambda given: None,
}


@pytest.mark.parametrize(
    ("folder", "what"),
    [
        ("qwen2_5_vl", "position_ids"), ("qwen3_vl", "position_ids"), ("qwen3_vl", "deepstack_visual_embeds"),
        ("gemma3", "attention_mask"),
    ],
    indirect=["folder"],
)  # fmt: skip
def test_what_a_class_hands_over_decides_its_answer(
    target: Model, scene: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were positions, visual inputs of further layers or masks wrong, the tests above would not pass."""
    embed = target.embed

    def broken(inputs: Any) -> Prompt:
        prompt = Prompt.of(embed(inputs))
        return Prompt(prompt.embeds, prompt.given | {what: BROKEN[what](prompt.given)})

    check_against_generate(target)
    monkeypatch.setattr(target, "embed", broken)
    assert target.greedy(scene, QUESTION, LIMIT).token_ids.tolist() != generated(target, scene, QUESTION)
    with pytest.raises(ValueError, match=rf"{target.name}: not usable: at token 1 of a first answer its logits differ"):
        check_against_generate(target)


@pytest.mark.parametrize("folder", ["qwen2_5_vl"], indirect=True)
def test_a_clips_seconds_may_run_ahead_of_its_pictures(folder: Path, scene: Any) -> None:
    """M-RoPE counts a slow clip's seconds beyond the positions of the question; `generate` goes on from the latter (the
    class's own `forward`, called step by step, from the former)."""
    model = open_model(folder, "frames", dtype=torch.float32)
    slow = SimpleNamespace(**vars(scene) | {"metadata": {"clip": (20, 1.0)}})
    prompt = Prompt.of(model.embed(model.encode(slow, QUESTION)))
    positions = prompt.given["position_ids"]
    assert positions.max() > positions[..., -1].max()
    assert model.greedy(slow, QUESTION, LIMIT).token_ids.tolist() == generated(model, slow, QUESTION)


@pytest.mark.parametrize(
    ("folder", "length", "rate", "expected"),
    [  # what transformers' own video processors take
        ("qwen2_5_vl", 20, 20.0, [0, 5, 10, 15]),  # four frames at least
        ("qwen2_5_vl", 95, 30.0, [0, 15, 31, 47, 63, 79]),
        ("qwen3_vl", 20, 20.0, [0, 6, 13, 19]),
        ("qwen3_vl", 95, 30.0, [0, 19, 38, 56, 75, 94]),
        ("smolvlm", 20, 20.0, [0]),  # one a second
        ("smolvlm", 95, 30.0, [0, 47, 94]),
        ("llava_onevision", 20, 20.0, "even"),
        ("gemma3", 20, 20.0, "even"),
    ],
    indirect=["folder"],
)  # fmt: skip
def test_frames_are_taken_as_the_processor_takes_them(
    folder: Path, target: Model, length: int, rate: float, expected: Any
) -> None:
    settings = PairSettings(name="any", drafter=str(folder), target=str(folder))
    for sampling in (target.sampling, frame_sampling(settings)):
        if expected == "even":
            assert sampling == "even"
            continue
        assert callable(sampling)
        assert sampling(length, rate) == expected
        with pytest.raises(ValueError, match="takes frames by the second, and the clip's rate is unknown"):
            sampling(length, None)
    assert frame_sampling(replace(settings, form="images")) == "even"


@pytest.mark.parametrize("template", [None, "{% for m in messages %}Q: {{ m.content }}{% endfor %} A:"])
def test_a_text_only_model_drafts(tmp_path: Path, scene: Any, template: str | None) -> None:
    torch.manual_seed(0)
    words = make_words((), WORDS["llama"])
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text_fields(words)))
    folder = save(tmp_path, module, words, template)
    drafter = open_model(folder, "events", dtype=torch.float32)
    text = QUESTION if template is None else f"Q: {QUESTION} A:"
    assert drafter.tokenizer.decode(drafter.encode(scene, QUESTION).input_ids[0]) == text
    check_against_generate(drafter)
    with pytest.raises(
        ValueError, match=r"config\.json: model_type: expected a vision-language model of transformers, fo"
    ):
        open_model(folder, "frames")


@pytest.mark.parametrize("folder", ["smolvlm"], indirect=True)
def test_a_class_that_is_not_tested_is_compared_when_it_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Model] = []
    monkeypatch.setattr("egptlib.models._open.check_against_generate", checked.append)
    open_model(folder, "frames", dtype=torch.float32)
    assert not checked
    monkeypatch.setattr("egptlib.models._open.TESTED", set())
    assert checked == [open_model(folder, "frames", dtype=torch.float32)]


@pytest.mark.parametrize("folder", ["smolvlm"], indirect=True)
def test_a_class_whose_first_prompt_fails_is_refused_by_name(
    folder: Path, target: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise TypeError("\nexpected nested pictures\nor not")

    monkeypatch.setattr(target, "encode", fails)
    reason = r"SmolVLM: not usable: a first prompt fails \(TypeError: expected nested pictures\)"
    with pytest.raises(ValueError, match=reason):
        check_against_generate(target)
    monkeypatch.delattr(target.module.get_decoder(), "norm")
    with pytest.raises(ValueError, match="SmolVLM: not usable: its language model LlamaModel has no norm"):
        VisionLanguageModel(target.module, target.processor)  # type: ignore[attr-defined]


def test_numbers_are_spelled_as_smolvlms_processor_has_them() -> None:
    assert [spelled(n) for n in (0, 8, 13, 20, 64, 99)] == [
        "zero", "eight", "thirteen", "twenty", "sixty-four", "ninety-nine"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="fewer than 100, found 100"):
        spelled(100)


class _Refusing:
    """Everything of a picture processor but processing."""

    def __init__(self, inner: Any):
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("pictures were processed again")
