"""A packed batch gives every answer token the logits that its own prompt gives it alone."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from egptlib.models.mini._language import IGNORED, pack, split_prompts

VISUAL = 99


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config).eval()


def test_prompts_are_cut_where_they_differ():
    prompts = [[[1, 5, VISUAL, VISUAL, 7, 20, 21], [1, 5, VISUAL, VISUAL, 7, 30]]]
    split = split_prompts(prompts, [[[40, 2], [41, 2]]], VISUAL)
    assert split.head == ([1, 5], [7])
    assert split.branches == [[([20, 21], [40, 2]), ([30], [41, 2])]]


def test_packed_logits_equal_separate_ones():
    model = tiny_llama()
    head = [1, 5, 6, 7]
    scenes = [[([20, 21], [40, 41, 2]), ([30], [50, 2])], [([22, 23, 24], [60, 2]), ([31], [61, 62, 63, 2])]]
    packed = pack(scenes, len(head))
    embedding = model.get_input_embeddings()
    text = embedding(torch.tensor(head))[None].expand(len(scenes), -1, -1)
    with torch.no_grad():
        hidden = model.model(
            inputs_embeds=torch.cat([text, embedding(packed.ids)], dim=1),
            attention_mask=packed.mask,
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state[:, len(head) :]
        logits = model.lm_head(hidden)
    for row, scene in enumerate(scenes):
        at = 0
        for prompt, answer in scene:
            with torch.no_grad():
                alone = model(torch.tensor([head + prompt + answer])).logits[0]
            first = len(head) + len(prompt) - 1
            span = slice(at + len(prompt) - 1, at + len(prompt) - 1 + len(answer))
            torch.testing.assert_close(logits[row, span], alone[first : first + len(answer)], atol=1e-5, rtol=1e-4)
            assert packed.labels[row, span].tolist() == answer
            at += len(prompt) + len(answer)
    told = sum(len(answer) for scene in scenes for _, answer in scene)
    assert int((packed.labels != IGNORED).sum()) == told
