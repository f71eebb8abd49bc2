#!/usr/bin/env bash
# Expected: a tokenizer read from GGUF splits text as the file says (`tokenizer.ggml.pre`), as llama.cpp does.
# Happens: transformers 5.23.0 passes over the name, so that GPT-2's splitting is used whatever the file says: with "smollm",
#   whose numbers go digit by digit, "123" becomes one token where the vocabulary has it.
# Meets it: who opens SmolLM2 and its like from GGUF; ids differ wherever a text has numbers, and nothing is said.
# Do: put the splitting rule into the tokenizer's backend (for smollm: Digits, then ByteLevel), and save it so.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q torch==2.13.0 transformers==5.23.0 gguf==0.19.0 tokenizers==0.23.3 numpy==2.4.6
cd "$d"
HF_HUB_OFFLINE=1 "$d/v/bin/python" - <<'P'
import os
import tempfile

import numpy as np
import transformers
from gguf import GGUFWriter, TokenType
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

letters = sorted(ByteLevel.alphabet())
words = [*letters, "<|endoftext|>", "12", "123"]
merges = ["1 2", "12 3"]


def made(rule, folder):
    path = os.path.join(folder, f"{rule}.gguf")
    out = GGUFWriter(path, "llama")
    out.add_name("tiny")
    out.add_context_length(16), out.add_embedding_length(8), out.add_block_count(1), out.add_feed_forward_length(8)
    out.add_head_count(1), out.add_layer_norm_rms_eps(1e-5), out.add_vocab_size(len(words))
    out.add_tokenizer_model("gpt2"), out.add_tokenizer_pre(rule)
    out.add_token_list(words), out.add_token_merges(merges)
    out.add_token_types([TokenType.NORMAL] * len(words))
    out.add_bos_token_id(256), out.add_eos_token_id(256)
    out.add_tensor("token_embd.weight", np.zeros((len(words), 8), np.float32))
    out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()
    return path


with tempfile.TemporaryDirectory() as folder:
    found = {}
    for rule in ("gpt-2", "smollm"):
        made(rule, folder)
        found[rule] = AutoTokenizer.from_pretrained(folder, gguf_file=f"{rule}.gguf").tokenize("x123")
print(f"transformers {transformers.__version__}: 'x123' by tokenizer.ggml.pre:", found)
print("llama.cpp's rule of smollm, digits one by one:", ["x", "1", "2", "3"])
assert found["smollm"] == found["gpt-2"] == ["x", "123"]
P
