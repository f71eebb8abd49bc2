"""Tiny random language models behind the common interface; a "scene" is a list of token ids, and so is a question."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from egptlib.models import Inputs, Model

VOCAB = 24
EOS = 2


class TextModel(Model):
    """A Llama that reads token ids instead of pictures."""

    def __init__(self, module: Any, tokenizer: Any, name: str):
        super().__init__(name, module, tokenizer, None, module.model)

    def encode(self, scene: Any, question: str, like: Inputs | None = None) -> Inputs:
        scene = [*scene, *(int(word) for word in question.split() if word.isdigit())]
        ids = [token if token < self.token_embedding.num_embeddings else 0 for token in scene]
        return Inputs(torch.tensor([ids]), torch.empty(0))

    def embed(self, inputs: Inputs) -> Tensor:
        return self.token_embedding(inputs.input_ids.to(self.device))


def word_tokenizer(size: int) -> Any:
    """Ids 0 to size - 1 as words "t0", "t1", ...; `</s>` is id 2."""
    names = {("</s>" if i == EOS else "<unk>" if i == 0 else f"t{i}"): i for i in range(size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(names, unk_token="<unk>")), eos_token="</s>", unk_token="<unk>"
    )


def make_model(
    seed: int, vocab: int = VOCAB, layers: int = 2, like: Model | None = None, noise: float = 0.0, name: str = "tiny"
) -> TextModel:
    """A random model whose next token depends on what it read; with `like`, that model disturbed by noise."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=EOS, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    module = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        module.get_input_embeddings().weight.normal_()
        for key, parameter in module.model.layers.named_parameters():
            if "proj" in key:
                parameter.normal_(std=0.3)
        module.lm_head.weight.normal_(std=0.4)
        if like is not None:
            theirs = like.module.state_dict()
            for key, parameter in module.named_parameters():
                rows = min(len(parameter), len(theirs[key]))
                parameter[:rows] = theirs[key][:rows] + noise * theirs[key][:rows].std() * torch.randn_like(
                    parameter[:rows]
                )
    return TextModel(module, word_tokenizer(vocab), name)


def plain(target: Model, prompt: list[int], max_new_tokens: int) -> list[int]:
    """transformers' own greedy answer."""
    with torch.no_grad():
        ids = torch.tensor([prompt])
        out = target.module.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens
        )
    return out[0, len(prompt) :].tolist()


@pytest.fixture(scope="session")
def target() -> TextModel:
    return make_model(0, layers=3, name="target")


@pytest.fixture(scope="session")
def drafter(target: TextModel) -> TextModel:
    """Agrees with the target on most tokens, not on all."""
    return make_model(1, layers=3, like=target, noise=0.15, name="drafter")
