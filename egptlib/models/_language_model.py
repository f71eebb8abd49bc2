"""A text-only language model behind the common interface: as drafter it sees nothing of the scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from egptlib.models._checkpoint import checked_from_pretrained, checkpoint_folder, load_tokenizer
from egptlib.models._interface import Model, PromptAs
from egptlib.models._state import Inputs


class LanguageModel(Model):
    """A checkpoint of one of transformers' causal language models (what `generate` calls an assistant model).

    It reads the question alone, in its tokenizer's chat template where there is one.
    """

    def __init__(self, module: Any, tokenizer: Any, name: str | None = None):
        name = name or type(module).__name__.removesuffix("ForCausalLM")
        super().__init__(name, module, tokenizer, None, module.get_decoder())

    @classmethod
    def from_pretrained(cls, folder: str | Path, name: str | None = None, **kwargs: Any) -> LanguageModel:
        """Open a checkpoint folder (or hub id); kwargs are those of transformers' `from_pretrained`."""
        folder = checkpoint_folder(folder)
        module = checked_from_pretrained(AutoModelForCausalLM.from_pretrained, folder, **kwargs)
        return cls(module, load_tokenizer(folder), name)

    def encode(self, scene: Any, question: str, like: Inputs | None = None) -> Inputs:
        if self.tokenizer.chat_template is None:
            ids = self.tokenizer(question).input_ids
        else:
            turn = [{"role": "user", "content": question}]
            ids = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True).input_ids
        return Inputs(torch.tensor([ids]), torch.empty(0))

    def embed(self, inputs: Inputs) -> Tensor:
        embeds: Tensor = self.token_embedding(inputs.input_ids.to(self.device))
        return embeds

    def generate_inputs(self, inputs: Inputs, prompt_as: PromptAs | None = None) -> dict[str, Any]:
        if prompt_as != "ids":
            return super().generate_inputs(inputs, prompt_as)
        ids = inputs.input_ids.to(self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
