"""EventGPT against the published code's outputs, and against plain loops."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from egptlib.models import EVENT_PLACEHOLDER, EventGPT, EventGPTConfig
from egptlib.models._eventgpt import PUBLISHED_TOWER_CONFIG, find_tower, load_eventgpt_config, pool_spatio_temporal

from .conftest import TOWER, event_config, loud

GOLDEN = ("eventgpt_5f", "eventgpt_1f")


@pytest.fixture(scope="module", params=GOLDEN)
def golden(request: pytest.FixtureRequest, shared: Path) -> tuple[EventGPT, dict[str, Tensor]]:
    folder = shared / "golden" / request.param
    model = EventGPT.from_pretrained(folder / "checkpoint", visual_tower=folder / "clip")
    return model, load_file(folder / "expected.safetensors")


@pytest.fixture
def model() -> EventGPT:
    torch.manual_seed(3)
    return loud(EventGPT(event_config()))


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, 28, 28, generator=torch.Generator().manual_seed(9))


def test_golden_outputs(golden: tuple[EventGPT, dict[str, Tensor]]) -> None:
    model, expected = golden
    prompt = {key: expected[key] for key in ("input_ids", "pixel_values")}
    with torch.no_grad():
        embeds = model.embed(**prompt)
        out = model(**prompt, output_hidden_states=True)
    torch.testing.assert_close(embeds, expected["inputs_embeds"], atol=1e-5, rtol=1e-6)  # another CPU rounds otherwise
    torch.testing.assert_close(out.hidden_states[-1], expected["last_hidden_state"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.logits, expected["logits"], atol=1e-4, rtol=0)


def test_golden_generation_returns_the_new_tokens(golden: tuple[EventGPT, dict[str, Tensor]]) -> None:
    model, expected = golden
    prompt = {key: expected[key] for key in ("input_ids", "pixel_values")}
    new = model.generate(**prompt, do_sample=False, max_new_tokens=24)
    assert torch.equal(new, expected["generated_ids"])


def test_golden_bfloat16_runs_close(golden: tuple[EventGPT, dict[str, Tensor]]) -> None:
    model, expected = golden
    half = EventGPT(model.config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    logits = half(input_ids=expected["input_ids"], pixel_values=expected["pixel_values"]).logits
    assert logits.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(logits.float(), expected["logits"], dim=-1).min() > 0.99


def test_pooling_equals_loops() -> None:
    features = torch.randn(2, 3, 5, 4)
    for b, sample in enumerate(features):
        temporal = [sum(sample[i, j] for j in range(5)) / 5 for i in range(3)]
        spatial = [sum(sample[i, j] for i in range(3)) / 3 for j in range(5)]
        want = torch.stack([torch.as_tensor(x) for x in temporal + spatial])
        torch.testing.assert_close(pool_spatio_temporal(features)[b], want)


def test_a_batch_equals_its_samples(model: EventGPT) -> None:
    ids = torch.tensor([[1, 5, EVENT_PLACEHOLDER, 7, 9], [1, EVENT_PLACEHOLDER, 5, 7, 9]])
    images = pixels(2, 3)
    with torch.no_grad():
        together = model(input_ids=ids, pixel_values=images, attention_mask=torch.ones_like(ids)).logits
        for i in range(2):
            alone = model(input_ids=ids[i : i + 1], pixel_values=images[i]).logits
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_event_tokens_stand_where_the_placeholder_stood(model: EventGPT) -> None:
    ids = torch.tensor([[1, 5, EVENT_PLACEHOLDER, 7]])
    images = pixels(2)
    embeds = model.embed(ids, images)
    events = model.encode_events(images)
    assert events.shape == (2 + 5, 64) == (2 + model.config.num_patches, 64)
    torch.testing.assert_close(embeds[0, :2], model.model.embed_tokens(torch.tensor([1, 5])))
    torch.testing.assert_close(embeds[0, 2:9], events)
    torch.testing.assert_close(embeds[0, 9:], model.model.embed_tokens(torch.tensor([7])))
    torch.testing.assert_close(model.embed(ids, event_tokens=events), embeds)


def test_prompts_are_cut(model: EventGPT) -> None:
    ids = torch.tensor([[1, EVENT_PLACEHOLDER, *range(3, 23)]])
    whole = model.embed(ids, pixels(1))
    model.config.max_prompt_length = 16
    assert torch.equal(model.embed(ids, pixels(1)), whole[:, :16])
    assert EventGPTConfig().max_prompt_length == 2048


def test_labels_and_masks_are_given_per_prompt_token(model: EventGPT) -> None:
    ids = torch.tensor([[1, EVENT_PLACEHOLDER, 5, 7, 9]])
    labels = torch.tensor([[-100, -100, -100, 7, 9]])
    out = model(input_ids=ids, pixel_values=pixels(1), labels=labels, attention_mask=torch.ones_like(ids))
    by_hand = torch.nn.functional.cross_entropy(out.logits[0, -3:-1], torch.tensor([7, 9]))
    torch.testing.assert_close(out.loss, by_hand)
    out.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name in ("visual_tower.embeddings.patch_embedding.weight", "feature_adaptor.weight", "lm_head.weight"):
        gradient = gradients[name]
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_training_with_4d_masks(model: EventGPT) -> None:
    """Two texts packed in one row by a block mask and own positions equal the two run apart."""
    embeds = torch.randn(1, 7, 64)
    mask = torch.zeros(1, 1, 7, 7, dtype=torch.bool)
    mask[..., :4, :4], mask[..., 4:, 4:] = torch.ones(4, 4).tril().bool(), torch.ones(3, 3).tril().bool()
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    apart = torch.cat([model(inputs_embeds=x).logits for x in embeds.split([4, 3], dim=1)], dim=1)
    for form in (mask, torch.where(mask, 0.0, torch.finfo(torch.float32).min)):
        packed = model(inputs_embeds=embeds, attention_mask=form, position_ids=positions).logits
        torch.testing.assert_close(packed, apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": [[1, 5]], "pixel_values": (1,)}, "expected 1 event placeholder"),
        ({"input_ids": [[1, -200, -200]], "pixel_values": (1,)}, "found \\[2\\]"),
        ({"input_ids": [[1, -200]]}, "expected 0 event placeholder"),
        ({"input_ids": [[1, -200], [1, -200]], "pixel_values": (1,)}, "expected 2 samples, found 1"),
        ({}, "found neither"),
    ],
)
def test_wrong_inputs_are_named(model: EventGPT, arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Tensor] = {}
    if "input_ids" in arguments:
        given["input_ids"] = torch.tensor(arguments["input_ids"])
    if "pixel_values" in arguments:
        given["pixel_values"] = pixels(*arguments["pixel_values"])
    with pytest.raises(ValueError, match=message):
        model(**given)


# Checkpoint folders


@pytest.fixture
def checkpoint(event_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(event_checkpoint, tmp_path / "checkpoint"))


def rewrite(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def same(one: EventGPT, two: EventGPT) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_saved_has_the_published_names_and_opens_again(model: EventGPT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "model.safetensors").keys()
    tower = [key for key in keys if key.endswith("pre_layrnorm.weight")]
    assert len(tower) == 1
    assert tower[0].startswith("model.visual_tower.visual_tower.")
    assert {"model.visual_projector.2.bias", "model.feature_adaptor.weight", "lm_head.weight"} <= keys
    assert same(EventGPT.from_pretrained(tmp_path), model)


def test_both_spellings_of_the_tower_open(checkpoint: Path) -> None:
    before = EventGPT.from_pretrained(checkpoint)
    rewrite(checkpoint, lambda w: {key.replace("vision_model.", ""): value for key, value in w.items()})
    assert same(EventGPT.from_pretrained(checkpoint), before)


def test_sharded_and_pickled_checkpoints_open(model: EventGPT, checkpoint: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert same(EventGPT.from_pretrained(tmp_path / "sharded"), model)

    before = EventGPT.from_pretrained(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    torch.save(weights, checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    assert same(EventGPT.from_pretrained(checkpoint), before)


def test_old_buffers_in_a_checkpoint_are_no_fault(checkpoint: Path) -> None:
    before = EventGPT.from_pretrained(checkpoint)
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.visual_tower.visual_tower.vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    rewrite(checkpoint, lambda weights: weights | old)
    assert same(EventGPT.from_pretrained(checkpoint), before)


def test_missing_unexpected_and_misshapen_weights_are_named(checkpoint: Path) -> None:
    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        del weights["model.feature_adaptor.bias"]
        weights["model.norm.weight"] = torch.ones(65)
        return weights | {"model.mystery.weight": torch.ones(1)}

    rewrite(checkpoint, change)
    with pytest.raises(ValueError, match="do not fit") as error:
        EventGPT.from_pretrained(checkpoint)
    for part in ("1 missing: feature_adaptor.bias", "1 unexpected: model.mystery.weight", "model.norm.weight [65]"):
        assert part in str(error.value)


def test_a_query_former_in_the_config_changes_nothing_and_its_weights_are_refused_by_name(checkpoint: Path) -> None:
    """The published class asks `use_event_qformer` and builds layers that no pass of it uses."""
    before = EventGPT.from_pretrained(checkpoint)
    edit_config(checkpoint, use_event_qformer=True)
    assert same(EventGPT.from_pretrained(checkpoint), before)

    rewrite(checkpoint, lambda weights: weights | {"model.query_embeddings": torch.ones(2, 64)})
    with pytest.raises(ValueError, match=r"1 unexpected: model\.query_embeddings"):
        EventGPT.from_pretrained(checkpoint)


def test_the_towers_config_is_found(checkpoint: Path, tmp_path: Path) -> None:
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "config.json").write_text(json.dumps(TOWER | {"model_type": "clip_vision_model"}))
    edit_config(checkpoint, vision_config=None, mm_visual_tower=str(tower))
    assert load_eventgpt_config(checkpoint).num_patches == 5  # named in the config

    edit_config(checkpoint, mm_visual_tower="openai/clip-vit-large-patch14-336")
    assert load_eventgpt_config(checkpoint).num_patches == 577  # known without the hub
    assert find_tower(checkpoint, "openai/clip-vit-large-patch14-336") is None
    assert load_eventgpt_config(checkpoint, tower).num_patches == 5  # the caller's

    shutil.copytree(tower, checkpoint / "visual_tower")
    assert load_eventgpt_config(checkpoint).num_patches == 5  # the checkpoint's own folder
    assert same(EventGPT.from_pretrained(checkpoint), EventGPT.from_pretrained(checkpoint, tower))


def test_the_published_tower() -> None:
    config = EventGPTConfig()
    assert PUBLISHED_TOWER_CONFIG.items() <= config.vision_config.to_dict().items()
    assert config.num_patches + 5 == 582


def test_folders_that_are_no_eventgpt(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere/eventgpt/7b: no such folder"):
        EventGPT.from_pretrained("nowhere/eventgpt/7b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty/config\.json: expected a model's config\.json"):
        EventGPT.from_pretrained(tmp_path / "empty")
    edit_config(checkpoint, model_type="llama")
    with pytest.raises(ValueError, match="model_type: expected 'EventChat_llama', found 'llama'"):
        EventGPT.from_pretrained(checkpoint)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        EventGPT.from_pretrained(checkpoint)


def test_damaged_and_malicious_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    with open(checkpoint / "model.safetensors", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged or cut weights"):
        EventGPT.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Evil()}, checkpoint / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a pickle that holds more than weights"):
        EventGPT.from_pretrained(checkpoint)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_without_weights_is_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=str(checkpoint)):
        EventGPT.from_pretrained(checkpoint)
