#!/usr/bin/env bash
# Expected: generate(assistant_model=..., output_hidden_states=True, return_dict_in_generate=True) gives the states that plain
#   generate gives, token by token, as it gives the same tokens, logits and scores.
# Happens: transformers 5.23.0 takes the states of the tokens that were accepted in the first pass from the beginning of that
#   pass, which holds the prompt: token i of the answer has the states of token i of the prompt. Number, shapes and all later
#   tokens are right; attentions are taken from the same rows, and cut to the answer's lengths. Nothing is said.
# Meets it: who gathers states for a head (EAGLE, Medusa) or a probe while decoding with drafts: the better the first draft, the
#   more of each answer is wrong.
# Do: read prompt and answer once more in one pass; or compare with plain generate before a long extraction.
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
draft.load_state_dict(target.state_dict())  # every draft is accepted
draft.generation_config.update(num_assistant_tokens=5, assistant_confidence_threshold=0.0)  # five at a time
prompt = torch.tensor([[1, 5, 9, 12, 7, 9, 13]])
told = dict(max_new_tokens=12, do_sample=False, eos_token_id=None, return_dict_in_generate=True, output_hidden_states=True)
plain, assisted = (target.generate(prompt, **told, **more) for more in ({}, {"assistant_model": draft}))
states, found = (torch.cat([layers[-1] for layers in out.hidden_states], dim=1)[0] for out in (plain, assisted))
count = prompt.shape[1]
print("transformers", transformers.__version__, "| same tokens:", torch.equal(plain.sequences, assisted.sequences))
assert torch.equal(plain.sequences, assisted.sequences) and states.shape == found.shape
whole = target(plain.sequences[:, :-1], output_hidden_states=True).hidden_states[-1][0]
assert torch.allclose(states, whole, atol=1e-5)  # plain generate is right
nearest = torch.cdist(found, states).argmin(dim=1).tolist()
print(f"a prompt of {count} tokens; the states given for each token are those of token", nearest)
wrong = [i for i, j in enumerate(nearest) if i != j]
print("wrong from", wrong[0], "to", wrong[-1], "| states of the prompt's tokens", [nearest[i] for i in wrong])
assert len(wrong) > 2 and wrong == list(range(count, count + len(wrong)))
assert [nearest[i] for i in wrong] == list(range(len(wrong)))
P
echo "as described"
