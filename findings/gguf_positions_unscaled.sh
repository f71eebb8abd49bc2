#!/usr/bin/env bash
# Expected: a GGUF file opened by transformers (gguf_file=) has the positions it was made with: a Llama with linear scaling says so
#   in `llama.rope.scaling.*`, Llama 3.1 and 3.2 in a tensor, `rope_freqs.weight`. llama.cpp follows both.
# Happens: transformers 5.23.0 reads neither (of the scaling it asks for gpt-oss alone): rope_parameters are the default's, the
#   tensor is dropped, and positions turn as many times too fast as the model was stretched. Nothing is said.
# Meets it: who takes a small Llama 3.2 from GGUF as a drafter, or a long-context Vicuna as a target: it drafts for another model
#   than the same weights from safetensors, the worse the longer the prompt (2,000 visual tokens are long).
# Do: make the model anew with the original's rope_parameters (its config.json) and load these weights into it; or take safetensors.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 tokenizers==0.23.3 numpy==2.4.6
cd "$d"
HF_HUB_OFFLINE=1 TQDM_DISABLE=1 "$d/v/bin/python" -W ignore - <<'P'
import numpy as np
import torch
import transformers
from gguf import GGUFWriter, RopeScalingType, TokenType
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"} | {
    "model.layers.0." + ours: "blk.0." + theirs
    for ours, theirs in {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }.items()
}
torch.manual_seed(0)
sizes = dict(vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
sizes |= dict(max_position_embeddings=512, rms_norm_eps=1e-5, initializer_range=0.3)
scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
model = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=scaling)).eval()
unscaled = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
unscaled.load_state_dict(model.state_dict())


def write(path, says_scaling, has_tensor):
    out, letters = GGUFWriter(path, "llama"), [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    out.add_context_length(512), out.add_embedding_length(32), out.add_block_count(1), out.add_feed_forward_length(64)
    out.add_head_count(4), out.add_head_count_kv(4), out.add_layer_norm_rms_eps(1e-5), out.add_vocab_size(257)
    out.add_rope_dimension_count(8), out.add_rope_freq_base(10_000.0)
    if says_scaling:
        out.add_rope_scaling_type(RopeScalingType.LINEAR), out.add_rope_scaling_factor(4.0)
    out.add_tokenizer_model("gpt2"), out.add_tokenizer_pre("gpt-2"), out.add_token_list(letters)
    out.add_token_merges([]), out.add_token_types([TokenType.NORMAL] * 257), out.add_eos_token_id(256)
    for name, weights in model.state_dict().items():
        values = weights.numpy()
        if "q_proj" in name or "k_proj" in name:  # GGUF has the halves of a head's rows interleaved
            values = values.reshape(4, 2, 4, 32).swapaxes(1, 2).reshape(32, 32)
        out.add_tensor(NAMES[name.removesuffix(".weight")] + ".weight", np.ascontiguousarray(values))
    if has_tensor:
        out.add_tensor("rope_freqs.weight", np.full(4, 4.0, np.float32))
    out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()


print("transformers", transformers.__version__)
ids = torch.randint(0, 256, (1, 300))
right, fast = (each(ids).logits for each in (model, unscaled))
for name, what in {"by key": (True, False), "by tensor": (False, True)}.items():
    write("a.gguf", *what)
    opened = AutoModelForCausalLM.from_pretrained(".", gguf_file="a.gguf").eval()
    found = opened(ids).logits
    changed = (found.argmax(-1) != right.argmax(-1)).sum().item()
    print(f"scaled by 4 {name}: opened as {opened.config.rope_parameters}; of 300 choices {changed} are others")
    assert torch.allclose(found, fast, atol=1e-4) and not torch.allclose(found, right, atol=1e-2) and changed > 10
    opened.config.rope_parameters = scaling
    again = LlamaForCausalLM(opened.config).eval()
    again.load_state_dict(opened.state_dict())
    assert torch.allclose(again(ids).logits, right, atol=1e-4)
P
echo "as described"
