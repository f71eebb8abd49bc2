"""An lm head over the frequent tokens alone: most of a large vocabulary is never drafted, and reading it costs time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOT_DRAFTED = -100  # what losses leave out


def spread(logits: Tensor, tokens: Tensor, size: int) -> Tensor:
    """Logits [..., k] of k tokens as logits [..., size]; -inf at all others."""
    out = logits.new_full((*logits.shape[:-1], size), -torch.inf)
    out[..., tokens] = logits
    return out


def row_of(tokens: Tensor, size: int) -> Tensor:
    """int64 [size], by token the row of a head that has one for each of `tokens`; NOT_DRAFTED where there is none."""
    rows = torch.full((size,), NOT_DRAFTED, device=tokens.device)
    rows[tokens] = torch.arange(len(tokens), device=tokens.device)
    return rows


class TrimmedHead(nn.Linear):
    """Hidden states to logits over the whole vocabulary; of tokens that it does not draft they are -inf.

    Weights and table have the names and the meaning that EAGLE-3 gave them (Li et al. 2025): row i of the weight is for
    token i + d2t[i].

    Args:
        in_features: width of the states.
        drafted: how many tokens it drafts.
        vocab_size: of the vocabulary.
    """

    d2t: Tensor

    def __init__(self, in_features: int, drafted: int, vocab_size: int) -> None:
        super().__init__(in_features, drafted, bias=False)
        self.out_features = vocab_size
        self.register_buffer("d2t", torch.zeros(drafted, dtype=torch.int64))

    @property
    def tokens(self) -> Tensor:
        """int64 [drafted], the token of each row."""
        return self.d2t + torch.arange(len(self.d2t), device=self.d2t.device)

    def forward(self, input: Tensor) -> Tensor:
        return spread(super().forward(input), self.tokens, self.out_features)


def answer_loss(lm_head: nn.Linear, hidden: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats of labels [n] behind states [n, H]; of a trimmed head over what it drafts."""
    if not isinstance(lm_head, TrimmedHead):
        return F.cross_entropy(lm_head(hidden).float(), labels)
    own = row_of(lm_head.tokens, lm_head.out_features)[labels]
    return F.cross_entropy(F.linear(hidden, lm_head.weight).float(), own, ignore_index=NOT_DRAFTED)


def trimmed_tokens(frequent: list[int], drafted: int) -> Tensor:
    """So many tokens, ascending: the frequent ones first, then the lowest ids, which a BPE learned first."""
    chosen = dict.fromkeys([*frequent, *range(drafted)])
    return torch.tensor(sorted(list(chosen)[:drafted]))
