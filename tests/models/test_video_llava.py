"""Video-LLaVA against transformers' outputs on the published key names, in both input forms."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from egptlib.models import Inputs, Pair, Preprocessor, VideoModel, load_video_llava
from egptlib.models._video_llava import Form

from .conftest import VOCAB, make_tokenizer

FORMS: dict[Form, dict[str, str]] = {
    "video": {"pixels": "pixel_values_videos", "suffix": "video"},
    "images": {"pixels": "pixel_values_images", "suffix": "images"},
}


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    folder = shared / "golden" / "video_llava_checkpoint"
    return load_video_llava(folder / "checkpoint"), load_file(folder / "expected.safetensors")


@pytest.mark.parametrize("form", FORMS)
def test_golden_outputs(golden: tuple[Any, dict[str, torch.Tensor]], form: Form) -> None:
    module, expected = golden
    model = VideoModel(module, make_tokenizer(), Preprocessor.square(56), form)
    suffix = FORMS[form]["suffix"]
    inputs = Inputs(expected[f"input_ids_{suffix}"], expected[FORMS[form]["pixels"]])
    state = model.prefill(inputs)
    with torch.no_grad():
        hidden = model.language_model(inputs_embeds=model.embed(inputs)).last_hidden_state
        logits = model.lm_head(hidden)
    torch.testing.assert_close(logits, expected[f"logits_{suffix}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(state.logits, logits[:, -1], atol=1e-4, rtol=0)
    torch.testing.assert_close(state.hidden, hidden[:, -1:], atol=1e-4, rtol=0)
    if form == "video":
        torch.testing.assert_close(hidden, expected["last_hidden_state_video"], atol=1e-4, rtol=0)
    ids, _ = model.decode_greedy(state, 24)
    assert torch.equal(ids[None], expected[f"generated_ids_{suffix}"])


@pytest.mark.parametrize("form", FORMS)
def test_encoding_a_scene_equals_transformers_own_path(video_checkpoint: Path, scene: Any, form: Form) -> None:
    model = VideoModel.from_pretrained(video_checkpoint, form, dtype=torch.float32)
    inputs = model.encode(scene, "What moves?")
    visual_id, per_frame = (VOCAB + 1, 5) if form == "video" else (VOCAB, 4)  # 2 x 2 patches, CLS in the video form
    assert int((inputs.input_ids == visual_id).sum()) == 8 * per_frame
    assert inputs.pixel_values.shape == ((1, 8, 3, 28, 28) if form == "video" else (8, 3, 28, 28))
    pixels = {"pixel_values_videos" if form == "video" else "pixel_values": inputs.pixel_values}
    with torch.no_grad():
        expected = model.module(input_ids=inputs.input_ids, **pixels).logits[:, -1]
    torch.testing.assert_close(model.prefill(inputs).logits, expected)


def test_the_two_forms_use_their_own_tower(pair: Pair, video_checkpoint: Path, scene: Any) -> None:
    images = VideoModel.from_pretrained(video_checkpoint, "images", dtype=torch.float32)
    of_video = pair.target.encode(scene, "?")
    of_images = images.encode(scene, "?")
    with torch.no_grad():
        pair.target.embed(of_video)
        images.embed(of_images)
    assert of_video.visual is not None and of_images.visual is not None
    assert of_video.visual.shape == (40, 64)
    assert of_images.visual.shape == (32, 64)
    assert not torch.allclose(of_video.visual.unflatten(0, (8, 5))[:, 1:].flatten(0, 1), of_images.visual)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}, "a plain LLaVA: 'llava'"),
        ({"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]}, "a plain LLaVA: 'llava_llama'"),
        ({"architectures": ["LlavaForConditionalGeneration"]}, "with LlavaForConditionalGeneration$"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "another model: 'llama'"),
    ],
)
def test_other_models_are_refused_by_name(
    video_checkpoint: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(video_checkpoint, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=message) as error:
        load_video_llava(folder)
    assert "expected 'video_llava'" in str(error.value)
    assert str(folder / "config.json") in str(error.value)


def test_half_a_checkpoint_is_refused(video_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(video_checkpoint, tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "image_tower" not in key}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: model\.image_tower"):
        load_video_llava(folder)


def test_wrong_settings_are_named(pair: Pair) -> None:
    target = pair.target
    assert isinstance(target, VideoModel)
    with pytest.raises(ValueError, match="form: expected one of"):
        VideoModel(target.module, target.tokenizer, target.preprocessor, "clip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 10 visual tokens, found 1"):
        target.embed(Inputs(torch.tensor([[1, VOCAB + 1, 5]]), torch.zeros(1, 2, 3, 28, 28)))
