#!/usr/bin/env bash
# Expected: drafts change how fast generate is, not what it gives; with any logits processor greedy tokens stay the same.
# Happens: with guidance_scale (classifier-free guidance) transformers 5.23.0 gives other tokens once a draft was refused, of an
#   assistant model or of prompt lookup. The processor runs the model a second time without the prompt and keeps that
#   run's cache; it is called for each drafted token, and the cache keeps those that are refused. Nothing is said.
#   Other processors (penalties, banned words, minimum lengths) look at the ids alone, and give plain decoding's tokens.
# Meets it: who speeds up guided decoding, also of vision-language models (guidance against a text alone).
# Do: no drafts beside guidance_scale; a processor with a state of its own must go back with the answer.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$d"
HF_HUB_OFFLINE=1 "$d/v/bin/python" -W ignore - <<'P'
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
target = LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0)).eval()
draft = LlamaForCausalLM(target.config).eval()
draft.load_state_dict(target.state_dict())
with torch.no_grad():
    for weights in draft.parameters():
        weights.add_(0.005 * torch.randn_like(weights))  # right most of the time
prompt = torch.tensor([[1, 5, 9, 12, 7, 9, 12]])
ways = {"plain": {}, "assistant": {"assistant_model": draft}, "lookup": {"prompt_lookup_num_tokens": 4}}


def answers(**rule):
    told = dict(max_new_tokens=12, do_sample=False, eos_token_id=None) | rule
    return {name: target.generate(prompt, **told, **way)[0, prompt.shape[1] :].tolist() for name, way in ways.items()}


def guided(scale):
    """The same by hand: both runs anew for each token."""
    ids = prompt
    for _ in range(12):
        plain, alone = (target(part).logits[0, -1].log_softmax(-1) for part in (ids, ids[:, prompt.shape[1] - 1 :]))
        ids = torch.cat([ids, (scale * (plain - alone) + alone).argmax()[None, None]], dim=1)
    return ids[0, prompt.shape[1] :].tolist()


print("transformers", transformers.__version__)
for rule in ({"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"guidance_scale": 1.5}):
    found = answers(**rule)
    same = {name: tokens == found["plain"] for name, tokens in found.items()}
    print(rule, "as plain:", same)
    assert all(same.values()) != ("guidance_scale" in rule)
print("by hand", guided(1.5), *(f"\n{name:9}" + str(tokens) for name, tokens in found.items()))
assert found["plain"] == guided(1.5) and found["plain"] != found["assistant"] and found["plain"] != found["lookup"]
P
echo "as described"
