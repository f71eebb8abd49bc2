"""What one model's token ids mean to another: one vocabulary with added specials, or two that share some tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from egptlib.models import Model, num_shared_tokens


class Vocabulary:
    """Maps between a drafter's and a target's ids.

    Args:
        pairs: int64 [m, 2], drafter id and target id of each token that both have; no id twice.
        drafter_tokenizer, target_tokenizer: to spell out, in the drafter's tokens, a target token it lacks.
        target_size: width V of the target's logits.
        end_token_ids: the target's end tokens.
    """

    def __init__(
        self,
        pairs: Tensor,
        drafter_tokenizer: Any,
        target_tokenizer: Any,
        target_size: int,
        end_token_ids: frozenset[int],
    ):
        self.drafter_ids, self.target_ids = pairs.unbind(dim=1)
        self.drafter_tokenizer, self.target_tokenizer = drafter_tokenizer, target_tokenizer
        self.target_size, self.end_token_ids = target_size, end_token_ids
        self._spelled = {theirs: [mine] for mine, theirs in pairs.tolist()}
        # One vocabulary with added specials: ids are the same up to some number, and a slice does the mapping.
        self._prefix = len(pairs) if torch.equal(pairs, torch.arange(len(pairs))[:, None].expand(-1, 2)) else None

    @property
    def is_shared(self) -> bool:
        """Whether an id means the same to both, added specials apart."""
        return self._prefix is not None

    def __len__(self) -> int:
        """How many tokens both have."""
        return len(self.target_ids)

    def to_drafter(self, tokens: Sequence[int]) -> list[int]:
        """Target ids to drafter ids; a token that the drafter lacks is spelled in its tokens, or left out."""
        return [mine for token in tokens for mine in self._spell(token)]

    def _spell(self, token: int) -> list[int]:
        if token not in self._spelled:
            text = self.target_tokenizer.decode([token], skip_special_tokens=True)
            self._spelled[token] = list(self.drafter_tokenizer(text, add_special_tokens=False).input_ids)
        return self._spelled[token]

    def to_target(self, logits: Tensor) -> Tensor:
        """Drafter logits [..., V_drafter] to [..., V_target]; -inf at tokens the drafter lacks.

        A softmax of it is the drafter's distribution confined to the common tokens and normalised again
        (token-level intersection, Timor et al. 2025, algorithm 4), which rejection sampling takes as its q.
        """
        if self._prefix is not None:
            return torch.nn.functional.pad(
                logits[..., : self._prefix], (0, self.target_size - self._prefix), value=-torch.inf
            )
        mapped = logits.new_full((*logits.shape[:-1], self.target_size), -torch.inf)
        mapped[..., self.target_ids.to(logits.device)] = logits[..., self.drafter_ids.to(logits.device)]
        return mapped


def shared_vocabulary(drafter: Model, target: Model) -> Vocabulary:
    """One vocabulary, in which a model may have added specials of its own.

    Raises:
        ValueError: the vocabularies differ within the tokens both were trained with; the first is named.
    """
    ids = torch.arange(num_shared_tokens(drafter, target))
    return _between(ids[:, None].expand(-1, 2), drafter, target)


def common_vocabulary(drafter: Model, target: Model) -> Vocabulary:
    """The tokens that two vocabularies both have, by spelling; their end tokens count as one.

    Raises:
        ValueError: they have none in common.
    """
    theirs = target.tokenizer.get_vocab()
    ends = set(drafter.eos_token_ids)
    pairs = {
        mine: theirs[token]
        for token, mine in drafter.tokenizer.get_vocab().items()
        if mine not in ends and mine < drafter.vocab_size and theirs.get(token, target.vocab_size) < target.vocab_size
    }
    taken = set(pairs.values())
    pairs |= {
        mine: end for mine, end in zip(sorted(ends), sorted(target.eos_token_ids), strict=False) if end not in taken
    }
    if not pairs:
        raise ValueError(f"{drafter.name} and {target.name} have no token in common")
    return _between(torch.tensor(sorted(pairs.items())), drafter, target)


def _between(pairs: Tensor, drafter: Model, target: Model) -> Vocabulary:
    return Vocabulary(pairs, drafter.tokenizer, target.tokenizer, target.vocab_size, target.eos_token_ids)
