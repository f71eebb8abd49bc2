"""4-bit and 8-bit loading on the CPU: what is quantized, how many bytes, and what comes out."""

import shutil
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from egptlib.decoding import speculative_generate
from egptlib.models import (
    EventGPT,
    Inputs,
    check_against_generate,
    describe_pair,
    fingerprint,
    load_pair,
    load_video_llava,
    open_model,
)
from egptlib.models._quantization import UNQUANTIZED, is_quantized, loading_options, quantize_4bit, quantized_bytes

from .conftest import event_config, loud
from .families import FAMILIES, scene_of_noise
from .test_families import Erring, generated

bnb: Any = bitsandbytes  # its types are not exported

KEPT = {"lm_head", "visual_projector.0", "visual_projector.2", "feature_adaptor"}


def linears(module: nn.Module, kind: type) -> set[str]:
    return {name for name, layer in module.named_modules() if type(layer) is kind}


def dequantized(module: EventGPT) -> EventGPT:
    """The same model with the 4-bit weights written out as float32."""
    plain = EventGPT(module.config).eval()
    weights = {key: value.float() for key, value in module.state_dict().items() if not key.count(".weight.")}
    for name, layer in module.named_modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            weights[f"{name}.weight"] = bnb.functional.dequantize_4bit(
                layer.weight.data.clone(), layer.weight.quant_state
            ).float()
    plain.load_state_dict(weights)
    return plain


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose widths are those the packed kernels take: multiples of 64."""
    folder = tmp_path_factory.mktemp("wide")
    tower = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(4)
    config = event_config(hidden_size=256, intermediate_size=512, vision_config=tower)
    loud(EventGPT(config)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("checkpoint", ["event_checkpoint", "wide"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nf4_computes_with_its_dequantized_weights(
    request: pytest.FixtureRequest, checkpoint: str, dtype: torch.dtype
) -> None:
    folder = request.getfixturevalue(checkpoint)
    module = EventGPT.from_pretrained(folder, **loading_options("nf4", dtype))
    assert linears(module, nn.Linear) == KEPT
    assert len(linears(module, bnb.nn.Linear4bit)) == len([n for n, x in module.named_modules() if is_nf4(x)])
    plain = dequantized(module)
    embeds = torch.randn(1, 6, module.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = module(inputs_embeds=embeds.to(dtype)).logits
        expected = plain(inputs_embeds=embeds).logits
    assert out.dtype == dtype
    similarity = nn.functional.cosine_similarity(out.float(), expected, dim=-1)
    assert similarity.min() > 0.99  # the packed kernels compute in bfloat16 whatever the dtype
    assert similarity.mean() > 0.998
    original = EventGPT.from_pretrained(folder)
    with torch.no_grad():
        coarse = nn.functional.cosine_similarity(original(inputs_embeds=embeds).logits, expected, dim=-1)
    assert 0.8 < coarse.mean() < 0.9999  # it was quantized, and it is the same model


def is_nf4(layer: nn.Module) -> bool:
    if not isinstance(layer, bnb.nn.Linear4bit):
        return False
    state = layer.weight.quant_state
    return state.quant_type == "nf4" and state.nested


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_parts_agree_on_the_dtype(event_checkpoint: Path, dtype: torch.dtype) -> None:
    """The earlier work met bfloat16 in the tower and float16 in the language model."""
    module = EventGPT.from_pretrained(event_checkpoint, **loading_options("nf4", dtype))
    floating = {p.dtype for p in module.parameters() if p.is_floating_point()}
    assert floating == {dtype}
    images = torch.randn(2, 3, 28, 28)
    assert module.encode_events(images).dtype == dtype
    ids = torch.tensor([[1, -200, 5]])
    assert module(input_ids=ids, pixel_values=images).logits.dtype == dtype
    new = module.generate(input_ids=ids, pixel_values=images, do_sample=False, max_new_tokens=4)
    assert new.shape[0] == 1
    assert 1 <= new.shape[1] <= 4


def test_what_was_saved_in_4_bit_opens_in_4_bit(event_checkpoint: Path, tmp_path: Path) -> None:
    module = EventGPT.from_pretrained(event_checkpoint, **loading_options("nf4"))
    module.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="saved as nf4 and open so"):
        again = EventGPT.from_pretrained(tmp_path)
    embeds = torch.randn(1, 4, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(again(inputs_embeds=embeds).logits, module(inputs_embeds=embeds).logits)


def test_a_pair_of_checkpoints_in_their_own_precision(
    event_checkpoint: Path, video_checkpoint: Path, scene: Any, tmp_path: Path
) -> None:
    """What was saved in 4 bit opens so and says so, on either side, and is not made another one."""
    sides = {"drafter": event_checkpoint, "target": video_checkpoint}
    kinds: Any = {"drafter": EventGPT.from_pretrained, "target": load_video_llava}
    for side, whole in sides.items():
        kinds[side](whole, **loading_options("nf4")).save_pretrained(tmp_path / side)
        for file in whole.glob("*token*"):
            shutil.copy(file, tmp_path / side)
        folders: dict[str, Any] = sides | {side: tmp_path / side}
        with pytest.warns(UserWarning, match=rf"{side}/config.json: .* saved as nf4 and open so, .* in bfloat16"):
            pair = load_pair("noise", **folders)
        told = describe_pair(pair)
        precisions = {"drafter": ("bfloat16", "nf4"), "target": ("nf4", "bfloat16")}[side]
        assert (told["precision"], told["pair"]) == (precisions[0], f"noise (drafter in {precisions[1]})")
        for model in (pair.drafter, pair.target):
            assert model.dtype == torch.bfloat16 and len(model.greedy(scene, "What moves?", 3).token_ids)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            asked = load_pair("noise", **folders, quantization="nf4")
        assert (describe_pair(asked)["precision"], describe_pair(asked)["pair"]) == ("nf4", "noise")
        with pytest.raises(ValueError, match=r"config.json: quantization_config: .* saved as nf4 .* opened as int8"):
            load_pair("noise", **folders, quantization="int8")
        with pytest.raises(ValueError, match=r"quantization_config: .* opens in bfloat16 and .* float32; leave dtype"):
            load_pair("noise", **folders, dtype="float32")


def test_a_fingerprint_is_that_of_what_was_loaded(wide: Path) -> None:
    """bitsandbytes lays weights out anew in their first pass on some CPUs; here that is done by hand as well."""
    module = EventGPT.from_pretrained(wide, **loading_options("nf4"))
    before = fingerprint(module)
    with torch.no_grad():
        module(input_ids=torch.tensor([[1, 5, 7]]))
        for layer in module.modules():
            if isinstance(layer, bnb.nn.Linear4bit):
                layer.weight.data = layer.weight.data.flip(0)
        assert fingerprint(module) == before
        module.lm_head.weight[0] += 1
    assert fingerprint(module) != before
    assert fingerprint(EventGPT.from_pretrained(wide, **loading_options("nf4"))) == before
    assert fingerprint(EventGPT.from_pretrained(wide, **loading_options(None))) != before


def test_int8(event_checkpoint: Path) -> None:
    module = EventGPT.from_pretrained(event_checkpoint, **loading_options("int8"))
    assert linears(module, nn.Linear) == KEPT
    whole = EventGPT.from_pretrained(event_checkpoint)
    embeds = torch.randn(1, 6, 64)
    with torch.no_grad():
        out = module(inputs_embeds=embeds.half()).logits
        expected = whole(inputs_embeds=embeds).logits
    assert out.dtype == torch.float16
    assert nn.functional.cosine_similarity(out.float(), expected, dim=-1).min() > 0.98
    with pytest.raises(ValueError, match="expected float16 with 'int8'"):
        loading_options("int8", torch.bfloat16)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_pair_answers(
    event_checkpoint: Path, video_checkpoint: Path, scene: Any, quantization: Any
) -> None:
    folders: Any = {"drafter": event_checkpoint, "target": video_checkpoint, "target_device": "cpu"}
    told = pytest.warns(UserWarning, match="in int8 a token's products depend on the others of its pass")
    with told if quantization == "int8" else nullcontext():
        pair = load_pair("eventgpt-videollava", quantization=quantization, **folders)
    assert linears(pair.target.module, nn.Linear) == {
        "lm_head",
        "model.multi_modal_projector.linear_1",
        "model.multi_modal_projector.linear_2",
    }
    for model in (pair.drafter, pair.target):
        answer = model.greedy(scene, "What moves?", max_new_tokens=6)
        assert 1 <= len(answer.token_ids) <= 6
        hidden, logits = model.forward_answer(model.encode(scene, "What moves?"), answer.token_ids)
        assert hidden.dtype == model.dtype
        assert torch.isfinite(logits.float()).all()


QUANTIZED = [
    pytest.param(family, precision, marks=() if family in ("gemma3", "qwen2_5_vl") else pytest.mark.slow)
    for family in FAMILIES
    for precision in ("nf4", "int8")
]


@pytest.mark.parametrize(("family", "precision"), QUANTIZED)
def test_a_quantized_family_answers_as_generate_does(family: str, precision: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder, scene = FAMILIES[family](tmp_path), scene_of_noise()
    dtype = torch.float32 if precision == "nf4" else None
    target = open_model(folder, "frames", **loading_options(precision, dtype))
    whole = open_model(folder, "frames", dtype=torch.float32)
    assert target.precision == precision
    kind = bnb.nn.Linear4bit if precision == "nf4" else bnb.nn.Linear8bitLt
    left = {name for name in linears(target.module, nn.Linear) if "lm_head" not in name and "projector" not in name}
    assert not left and linears(target.module.model, kind)
    expected = generated(target, scene, "What moves?")
    answer = target.greedy(scene, "What moves?", len(expected))
    assert answer.token_ids.tolist() == expected
    if precision == "nf4":  # in int8 products depend on the other tokens of a pass, which the test below shows
        erring = Erring(expected)
        found = speculative_generate(target, erring, scene, "What moves?", gamma=3, max_new_tokens=len(expected))
        assert found.token_ids.tolist() == expected
    check_against_generate(target)
    read = [model.forward_answer(model.encode(scene, "What moves?"), expected)[0] for model in (target, whole)]
    similarity = nn.functional.cosine_similarity(read[0].float(), read[1], dim=-1)
    assert 0.5 < similarity.mean() < 0.99999  # quantized, and the same model


def test_in_int8_a_token_depends_on_the_others_of_its_pass(event_checkpoint: Path) -> None:
    """Why a pair whose target is in int8 is told not to be exact: one outlier takes its column out for all rows."""
    layer: Any = EventGPT.from_pretrained(event_checkpoint, **loading_options("int8")).model.layers[0].self_attn.q_proj
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).half()
    with torch.no_grad():
        assert torch.equal(layer(rows)[:2], layer(rows[:2]))
        rows[2, 5] = 30  # beyond bitsandbytes' threshold
        assert not torch.equal(layer(rows)[:2], layer(rows[:2]))


def test_golden_checkpoints_load_in_4_bit(shared: Path) -> None:
    """Their widths (48, 112) do not fit the packed CPU kernels; the generic ones take over."""
    golden = shared / "golden"
    options = loading_options("nf4", torch.float32)
    expected = load_file(golden / "eventgpt_5f" / "expected.safetensors")
    drafter = EventGPT.from_pretrained(
        golden / "eventgpt_5f" / "checkpoint", golden / "eventgpt_5f" / "clip", **options
    )
    with torch.no_grad():
        logits = drafter(input_ids=expected["input_ids"], pixel_values=expected["pixel_values"]).logits
    assert nn.functional.cosine_similarity(logits, expected["logits"], dim=-1).mean() > 0.8
    expected = load_file(golden / "video_llava_checkpoint" / "expected.safetensors")
    target = load_video_llava(golden / "video_llava_checkpoint" / "checkpoint", **options)
    inputs = Inputs(expected["input_ids_video"], expected["pixel_values_videos"])
    with torch.no_grad():
        logits = target(input_ids=inputs.input_ids, pixel_values_videos=inputs.pixel_values).logits
    assert nn.functional.cosine_similarity(logits, expected["logits_video"], dim=-1).mean() > 0.7


@pytest.mark.parametrize("shape", [(64, 64), (48, 100), (512, 1376), (96, 4096)])
@pytest.mark.parametrize("double_quant", [True, False])
def test_the_byte_formula_of_nf4(shape: tuple[int, int], double_quant: bool) -> None:
    weight = bnb.nn.Params4bit(
        torch.randn(shape), requires_grad=False, quant_type="nf4", compress_statistics=double_quant
    ).to("cpu")
    state = weight.quant_state
    stored = [weight.data, state.absmax, state.code]
    if double_quant:
        stored += [state.state2.absmax, state.state2.code, state.offset]
    assert sum(tensor.nbytes for tensor in stored) == quantized_bytes(*shape, "nf4", double_quant)


def test_the_byte_formula_of_int8(event_checkpoint: Path) -> None:
    module = EventGPT.from_pretrained(event_checkpoint, **loading_options("int8"))
    for layer in module.modules():
        if isinstance(layer, bnb.nn.Linear8bitLt):
            stored = layer.weight.data.nbytes + layer.weight.SCB.nbytes
            assert stored == quantized_bytes(layer.out_features, layer.in_features, "int8")


def test_which_layers_are_quantized() -> None:
    module = EventGPT(event_config())
    kept = {name for name, x in module.named_modules() if isinstance(x, nn.Linear) and not is_quantized(name, x)}
    assert kept == KEPT
    assert not is_quantized("model.norm", nn.LayerNorm(3))
    assert "lm_head" in UNQUANTIZED


@pytest.mark.parametrize("shape", [(64, 64), (48, 100), (3, 33), (8, 17)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_each_weight_becomes_the_nearest_code_of_its_block(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Our kernel for CPUs, by brute force. That its bytes are bitsandbytes' own is checked by benchmarks/nf4.py."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    packed, largest = quantize_4bit(weight, 64, "nf4", torch.uint8)
    code = bnb.functional.get_4bit_type("nf4", device="cpu").double()
    for number, block in enumerate(weight.flatten().double().split(64)):
        assert largest[number] == block.abs().max()
        nearest = (block[:, None] / block.abs().max() - code).abs().argmin(dim=1)
        found = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[64 * number :][: len(block)]
        assert found.tolist() == nearest.tolist()


@pytest.mark.slow
def test_bitsandbytes_takes_our_kernel_and_says_nothing_of_a_hub() -> None:
    """Its warning says that a kernel of the hub is missing; nothing is fetched here, and its own serves as well."""
    code = (
        "import torch; from egptlib.models._quantization import loading_options; loading_options('nf4')\n"
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('bitsandbytes::quantize_4bit', 'CPU'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout.strip(), ran.stderr) == ("True", "")
