"""What keeps the language: the language model's own answers to other questions, taught beside those of scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from egptlib.models._batch import BatchReader
from egptlib.models._language_model import LanguageModel
from egptlib.models.mini._language import pack, packed_loss

_ABOUT = (
    "a mountain", "the sea", "a forest", "the sun", "wind", "a desert", "an island", "a volcano", "winter", "autumn",
    "a cat", "a horse", "a whale", "an eagle", "a bee", "a spider", "a rose", "an oak tree", "mushrooms", "grass",
    "cheese", "coffee", "chocolate", "soup", "an apple", "salt", "honey", "rice", "a pencil", "a mirror",
    "a candle", "a ship", "a train", "a telescope", "a library", "a castle", "football", "chess", "painting", "dancing",
)  # fmt: skip
_ASKED = (
    "Tell me about {}.",
    "Write a short poem about {}.",
    "Where does one find {}?",
    "What would the world be without {}?",
    "Give one interesting fact about {}.",
    "How would you describe {} to somebody who has never heard of it?",
)
QUESTIONS = tuple(ask.format(thing) for thing in _ABOUT for ask in _ASKED)
"""None of them, of what they ask and of what they are about is in the card's."""
TOKENS = 40  # of each answer
ROWS, BRANCHES = 2, 5  # of a step: rows, and questions in each


@torch.no_grad()
def own_answers(base: Path) -> list[tuple[list[int], list[int]]]:
    """Ids of each question's prompt and of what the language model answers to it, greedily.

    Args:
        base: the language model's folder.
    """
    alone = LanguageModel.from_pretrained(base, dtype=torch.bfloat16)
    asked = [alone.encode(None, question) for question in QUESTIONS]
    reader = BatchReader(alone)
    answers = reader.answer(reader.prompts([[alone.see(inputs) for inputs in asked]]), TOKENS)
    return [(i.input_ids[0].tolist(), said.token_ids.tolist()) for i, said in zip(asked, answers, strict=True)]


def text_loss(
    module: Any, language_model: nn.Module, told: list[tuple[list[int], list[int]]], seed: int
) -> Callable[[int], Tensor]:
    """A step's number to the loss of ten of the answers, in nats a token, each in its turn.

    Args:
        module: gives the token embedding and the lm head.
        language_model: embeddings to last hidden states.
        told: as `own_answers` gives them.
        seed: of their order.
    """
    order = torch.randperm(len(told), generator=torch.Generator().manual_seed(seed)).tolist()
    begun = next(at for at, ids in enumerate(zip(*(prompt for prompt, _ in told))) if len(set(ids)) > 1)
    head = torch.tensor(told[0][0][:begun], dtype=torch.long)
    branches = [(told[i][0][begun:], told[i][1]) for i in order]

    def loss(step: int) -> Tensor:
        taken = [branches[i % len(branches)] for i in range(ROWS * BRANCHES * step, ROWS * BRANCHES * (step + 1))]
        heads = module.get_input_embeddings()(head)[None].expand(ROWS, -1, -1)
        return packed_loss(module, language_model, heads, pack([taken[row::ROWS] for row in range(ROWS)], begun))

    return loss
