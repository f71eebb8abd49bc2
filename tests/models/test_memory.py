"""The memory plan against the models themselves, a calculation by hand, and the reported figures."""

from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from egptlib.models import (
    EventGPT,
    EventGPTConfig,
    PairSettings,
    cache_bytes,
    load_video_llava,
    plan_memory,
    stored_bytes,
    without_room,
)
from egptlib.models._memory import PRECISIONS
from egptlib.models._quantization import loading_options

from .conftest import event_config, video_config

bnb: Any = bitsandbytes  # its types are not exported


@pytest.fixture(scope="module")
def plan() -> Any:
    return plan_memory()


def counted_bytes(module: nn.Module) -> int:
    """What a loaded model's weights take, quantization state included."""
    total = 0
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            total += parameter.nbytes
        if isinstance(layer, bnb.nn.Linear4bit):
            state = layer.weight.quant_state
            total += state.absmax.nbytes + state.code.nbytes
            total += state.state2.absmax.nbytes + state.state2.code.nbytes + state.offset.nbytes
        if isinstance(layer, bnb.nn.Linear8bitLt):
            total += layer.weight.SCB.nbytes
    return total


def test_the_reported_figures(plan: Any) -> None:
    rows = plan.against_reports()
    assert [row["reported"] for row in rows] == [13.19, 4.11, 8.37]
    for row in rows:
        assert abs(row["difference"]) < 0.03, row
        assert f"{row['planned']:.2f}" in str(plan)


def test_7b_by_hand(plan: Any) -> None:
    """Parameters of Vicuna-7B, ViT-L/14-336, projector and adaptor, counted from their widths."""
    block = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    language = 32 * block + 4096
    vit_block = 4 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    tower = 24 * vit_block + 577 * 1024 + 3 * 14 * 14 * 1024 + 1024 + 4 * 1024
    projector = 1024 * 4096 + 4096 + 4096**2 + 4096
    expected = {
        "language model": language,
        "vision tower": tower,
        "projector": projector,
        "feature adaptor": 4096**2 + 4096,
        "embeddings": 32000 * 4096,
        "lm_head": 32000 * 4096,
    }
    parts = {part.part: part for part in plan.parts if part.model == "EventGPT"}
    assert {name: part.parameters for name, part in parts.items()} == expected
    assert plan.weight_bytes("bfloat16", "EventGPT") == 2 * sum(expected.values()) == 14_159_368_192
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    quantized = parts["language model"].quantized
    assert quantized == 32 * (block - 2 * 4096)
    by_bits = quantized * bits / 8 + 2 * (language - quantized)
    assert parts["language model"].bytes["nf4"] == pytest.approx(by_bits, rel=1e-4)
    assert plan.cache_bytes["EventGPT"][2048] == 2 * 32 * 4096 * 2 * 2048 == 2**30


def test_video_llava_has_two_towers(plan: Any) -> None:
    parts = {part.part: part.parameters for part in plan.parts if part.model == "Video-LLaVA"}
    assert parts["video tower"] == parts["image tower"] == 303_179_776
    assert parts["embeddings"] == 32064 * 4096


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "nf4"])
def test_the_plan_equals_what_is_loaded(event_checkpoint: Path, video_checkpoint: Path, precision: str) -> None:
    plan = plan_memory({"EventGPT": event_config(), "Video-LLaVA": video_config()}, lengths=(10,))
    quantization: Any = precision if precision in ("int8", "nf4") else None
    dtype = getattr(torch, precision) if quantization is None else None
    options = loading_options(quantization, dtype)
    loaded = {
        "EventGPT": EventGPT.from_pretrained(event_checkpoint, **options),
        "Video-LLaVA": load_video_llava(video_checkpoint, **options),
    }
    for name, module in loaded.items():
        assert plan.weight_bytes(precision, name) == counted_bytes(module) == stored_bytes(module)


def test_the_cache_equals_what_is_stored(plan: Any) -> None:
    config = event_config()
    module = EventGPT(config).to(torch.bfloat16).eval()
    cache = module(inputs_embeds=torch.randn(1, 10, 64, dtype=torch.bfloat16), use_cache=True).past_key_values
    stored = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert plan_memory({"tiny": config}, lengths=(10,)).cache_bytes == {"tiny": {10: stored}}


def test_rows_and_totals(plan: Any) -> None:
    rows = plan.rows()
    assert {"model", "part", "parameters", "quantized", *PRECISIONS} == set(rows[0])
    total = sum(row["nf4"] for row in rows)
    assert total == pytest.approx(plan.weight_bytes("nf4") / 2**30)
    assert plan.parameters() == sum(row["parameters"] for row in rows)
    with pytest.raises(ValueError, match="precision: expected one of float32"):
        plan.weight_bytes("fp8")


def test_nothing_is_allocated() -> None:
    with torch.device("meta"):
        module = VideoLlavaForConditionalGeneration(video_config())
    count = sum(p.numel() for p in module.parameters())
    assert plan_memory({"tiny": video_config()}).parameters() == count


@pytest.fixture(scope="module")
def unpublished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of both 7B models' configs, without weights."""
    folder = tmp_path_factory.mktemp("configs")
    EventGPTConfig().save_pretrained(folder / "drafter")
    text = LlamaConfig(vocab_size=32064)
    VideoLlavaConfig(text_config=text).save_pretrained(folder / "target")
    return {side: str(folder / side) for side in ("drafter", "target")}


@pytest.mark.parametrize(
    ("devices", "gib", "refused"),
    [
        (("cuda", None), 24, {"float32", "bfloat16"}),
        (("cuda", "cuda:1"), 24, {"float32"}),
        (("cpu", None), 140, set()),
        (("cuda", "cpu"), 5, set(PRECISIONS[:3])),
    ],
)
def test_precisions_fit_the_devices(
    devices: tuple[str, str | None], gib: int, refused: set[str], unpublished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egptlib.models._memory.usable_device", lambda name, _: torch.device(name))
    monkeypatch.setattr("egptlib.models._memory.device_bytes", lambda device: gib * 2**30)
    pair = PairSettings("7b", **unpublished, device=devices[0], target_device=devices[1])
    found = without_room(pair, PRECISIONS[:4])
    assert set(found) == refused
    if devices == ("cuda", None):
        assert found["bfloat16"] == "needs 29.6 GiB of cuda, which has 24.0"


def test_weights_saved_quantized_fit_in_their_own_precision_alone(unpublished: Any, tmp_path: Path) -> None:
    config: Any = VideoLlavaConfig(text_config=LlamaConfig(vocab_size=32064))
    config.quantization_config = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"}
    config.save_pretrained(tmp_path)
    found = without_room(PairSettings("7b", unpublished["drafter"], str(tmp_path)), ["bfloat16", "int8"])
    assert found == dict.fromkeys(["bfloat16", "int8"], "target is saved as nf4")


def test_a_cache_is_as_wide_as_its_heads_whatever_the_states_are() -> None:
    """Counted in a real cache; heads may be wider than their share of the states, as Qwen3's and Gemma's are."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=8, vocab_size=10, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    cache = LlamaForCausalLM(config)(torch.tensor([[1, 2, 3, 4, 5]])).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 5 * cache_bytes(config, 4) == held
