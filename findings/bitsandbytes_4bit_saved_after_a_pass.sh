#!/usr/bin/env bash
# Expected: a pass leaves a model's weights as they are; what is saved after it is what was loaded.
# Happens: on a CPU with AVX512-BF16 (Zen 4, Sapphire Rapids) bitsandbytes 0.50.2 packs each 4-bit weight anew in its first pass
#   without gradients: the scales are rounded to bfloat16 and transposed. Saving (and .cuda()) packs the weights back, but
#   the scales only of double quantization: without it, which is transformers' default, they are saved transposed, and
#   the model that is loaded has the right codes with other blocks' scales. With it the rounding stays (0.15 % here).
#   Nothing is said, and a layer with compute_dtype=float32 computes in bfloat16. On other CPUs none of it.
# Meets it: who tries a quantized model on the CPU and saves it then, or moves it to a GPU: a good answer before, bad ones after.
# Do: save before the first pass; for layers that stay as they are: layer.support_avx512bf16_for_cpu = False.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q torch==2.13.0 bitsandbytes==0.50.2 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - 2> /dev/null <<'P'
import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit, has_avx512bf16

print("bitsandbytes", bnb.__version__, "torch", torch.__version__, "| AVX512-BF16:", has_avx512bf16())
if not has_avx512bf16():
    print("this CPU takes the other path: nothing to see")
    raise SystemExit
torch.manual_seed(0)
weights, x = 0.05 * torch.randn(256, 256), torch.randn(3, 256)


def layer(passes, **more):
    made = bnb.nn.Linear4bit(256, 256, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    made.weight = bnb.nn.Params4bit(weights.clone(), requires_grad=False, quant_type="nf4", **more)
    made = made.to("cpu").eval()
    with torch.no_grad():
        for _ in range(passes):
            made(x)
    return made


def saved(made):
    """The weights, as one gets them who loads what this layer saves."""
    state = {name.removeprefix("weight."): value for name, value in made.state_dict().items()}
    read = bnb.nn.Params4bit.from_prequantized(state.pop("weight"), state, requires_grad=False, device="cpu")
    return dequantize_4bit(read.data, read.quant_state)


changed = {}
for double in (False, True):
    before, after = (saved(layer(passes, compress_statistics=double)) for passes in (0, 1))
    changed[double] = ((after - before).norm() / before.norm()).item()
    print(f"double quantization: {double}; what is saved after one pass is off by {changed[double]:.2%} of the weights' norm")
    still = layer(0, compress_statistics=double)
    still.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        still(x)
    assert torch.equal(saved(still), before)
assert changed[False] > 0.1 > 0.01 > changed[True] > 1e-4
exact = x @ saved(layer(0)).T
with torch.no_grad():
    errors = {mode: (layer(0).train(mode == "train")(x) - exact).abs().max().item() for mode in ("eval", "train")}
print("largest error of the product, compute_dtype=float32:", errors)
assert errors["eval"] > 1e-3 > 1e-4 > errors["train"]
P
echo "as described"
