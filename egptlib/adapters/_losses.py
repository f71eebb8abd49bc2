"""What a level is trained on: the four terms, and their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss terms, each a mean over valid positions and depths.

    Attributes:
        mse: mean squared error to the target's state.
        cosine: 1 - cos to it.
        token: cross-entropy to the target's token, through its lm head, in nats.
        kl: KL(target's distribution || the adapter's), in nats.
        same_position: of a head that runs ahead: share of the loss at row t instead of t + 1, as the earlier L5 and
            L5F had it (0.5). A head that is given the target's row t would only copy it (findings C18).
        depths: positions a head runs ahead in training on its own predictions (training-time test, EAGLE-3).
    """

    mse: float = 1.0
    cosine: float = 0.5
    token: float = 0.1
    kl: float = 1.0
    same_position: float = 0.0
    depths: int = 5


def loss_terms(
    states: Tensor,
    wanted: Tensor,
    token_ids: Tensor | None,
    lm_head: Tensor,
    settings: LossSettings,
    target_head: Tensor | None = None,
) -> dict[str, Tensor]:
    """The four terms over n positions, unweighted; those with weight 0 are left out.

    Args:
        states, wanted: [n, hidden], the adapter's and the target's.
        token_ids: int [n], the target's tokens; None in folders of the earlier writer.
        lm_head: [V, hidden], frozen; reads `states`.
        target_head: [V, hidden], reads `wanted`; the same one when left out.
    """
    terms: dict[str, Tensor] = {}
    if settings.mse or settings.cosine:
        mse, cosine = StateLoss.apply(states.float(), wanted)
        terms |= {name: term for name, term in (("mse", mse), ("cosine", cosine)) if getattr(settings, name)}
    if settings.token or settings.kl:
        log_q = F.linear(states.to(lm_head.dtype), lm_head).float().log_softmax(dim=-1)
        if settings.token and token_ids is not None:
            terms["token"] = F.nll_loss(log_q, token_ids.long())
        if settings.kl:
            reader = lm_head if target_head is None else target_head
            log_p = F.linear(wanted.to(reader.dtype), reader).float().log_softmax(dim=-1)
            terms["kl"] = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return terms


def weighed(terms: dict[str, Tensor], settings: LossSettings) -> dict[str, Tensor]:
    """The terms, detached, and their weighted sum as "loss"."""
    loss = torch.stack([getattr(settings, name) * term for name, term in terms.items()]).sum()
    return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


class StateLoss(torch.autograd.Function):
    """Mean squared error and mean 1 - cos of rows x, y [n, hidden], with the gradient to x written out.

    Both gradients are of the form a x + b y with two numbers a row, so one pass over the rows gives their sum. The
    plain terms take about ten passes, a fifth of the time that L1 trains on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x_norm, y_norm = (torch.linalg.vector_norm(rows, dim=-1).clamp(min=1e-8) for rows in (x, y))
        cosine = torch.linalg.vecdot(x, y) / (x_norm * y_norm)
        ctx.save_for_backward(x, y, x_norm, y_norm, cosine)
        return F.mse_loss(x, y), 1 - cosine.mean()

    @staticmethod
    def backward(ctx: Any, mse_grad: Tensor, cosine_grad: Tensor) -> tuple[Tensor, None]:
        x, y, x_norm, y_norm, cosine = ctx.saved_tensors
        squared, turned = 2 * mse_grad / x.numel(), cosine_grad / len(x)
        a = squared + turned * cosine / x_norm.square()
        b = -squared - turned / (x_norm * y_norm)
        return (a[:, None] * x).addcmul_(b[:, None], y), None
