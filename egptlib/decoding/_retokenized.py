"""Drafting over another vocabulary through text (string-level exact match, Timor et al. 2025, 2502.05202)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from egptlib._clock import Recorder
from egptlib.decoding._drafters import Draft, Stop, certain
from egptlib.decoding._model_drafter import ModelDrafter
from egptlib.decoding._sampling import Sampler
from egptlib.models import Model, Vocabulary, common_prefix


class RetokenizedDrafter:
    """Drafts words with a model of any vocabulary and spells them in the target's tokens.

    The draft is taken as chosen with certainty, so the lossless rules keep the target's output (greedy) or its
    distribution (sampling), whatever the two tokenizers do. The price under sampling: a token x is kept with the
    target's p(x), where a drafter whose q is known keeps min(1, p(x) / q(x)).
    """

    def __init__(self, model: Model, target: Model, name: str | None = None):
        own = torch.arange(model.vocab_size)[:, None].expand(-1, 2)
        vocabulary = Vocabulary(own, model.tokenizer, model.tokenizer, model.vocab_size, model.eos_token_ids)
        self.inner = ModelDrafter(model, vocabulary)
        self.tokenizer, self.end_token_ids = target.tokenizer, target.eos_token_ids
        self.name, self.device = name or f"{model.name} (by text)", model.device

    def keep(self, scene: Any) -> None:
        self.inner.keep(scene)

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        self.inner.start(scene, question, recorder)

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        text = self._spell(self.tokenizer, answer)
        theirs = self.inner.model.tokenizer
        known = theirs(text, add_special_tokens=False).input_ids
        inner = self.inner.propose(known, count, sampler, stop)
        drafted = [token for token in inner.tokens if token not in self.inner.vocabulary.end_token_ids]
        ended = len(drafted) < len(inner.tokens)
        whole = self._spell(theirs, [*known, *drafted])
        if not whole.startswith(text):  # a character was cut in two at the seam
            return Draft()
        tokens = self.tokenizer(whole, add_special_tokens=False).input_ids
        if common_prefix(tokens, answer) == len(answer):
            tokens = tokens[len(answer) :]
        else:  # the target split the text so far in another way than its tokenizer would
            tokens = self.tokenizer(whole[len(text) :], add_special_tokens=False).input_ids
        if ended and self.end_token_ids:
            tokens = [*tokens, min(self.end_token_ids)]
        return certain(list(tokens[:count]), None)

    @staticmethod
    def _spell(tokenizer: Any, ids: Sequence[int]) -> str:
        text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.rstrip("\ufffd")  # half a character
