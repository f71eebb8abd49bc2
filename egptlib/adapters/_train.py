"""Training a level on stored hidden states: the loss terms, and the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egptlib.adapters._batches import moved, predictions
from egptlib.adapters._files import save_adapter
from egptlib.adapters._fit import Fit, FitSettings, Row, fit
from egptlib.adapters._judge import Judgement, judge
from egptlib.adapters._levels import Adapter
from egptlib.hidden_states import HiddenBatch, HiddenStates


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
    if settings.mse:
        terms["mse"] = F.mse_loss(states.float(), wanted)
    if settings.cosine:
        terms["cosine"] = (1 - F.cosine_similarity(states.float(), wanted, dim=-1)).mean()
    if settings.token or settings.kl:
        logits = F.linear(states.to(lm_head.dtype), lm_head).float()
        if settings.token and token_ids is not None:
            terms["token"] = F.cross_entropy(logits, token_ids.long())
        if settings.kl:
            reader = lm_head if target_head is None else target_head
            target = F.linear(wanted.to(reader.dtype), reader).float().log_softmax(dim=-1)
            terms["kl"] = F.kl_div(logits.log_softmax(dim=-1), target, reduction="batchmean", log_target=True)
    return terms


def weighed(terms: dict[str, Tensor], settings: LossSettings) -> dict[str, Tensor]:
    """The terms, detached, and their weighted sum as "loss"."""
    loss = torch.stack([getattr(settings, name) * term for name, term in terms.items()]).sum()
    return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


class Objective(nn.Module):
    """The weighted loss of a batch of stored samples."""

    def __init__(self, adapter: Adapter, lm_head: Tensor, settings: LossSettings) -> None:
        super().__init__()
        self.adapter, self.settings = adapter, settings
        self.register_buffer("lm_head", lm_head, persistent=False)

    def forward(self, batch: HiddenBatch) -> dict[str, Tensor]:
        lm_head: Tensor = self.lm_head  # type: ignore[assignment]
        target, mask = batch.target_hidden.to(lm_head.device).float(), batch.mask.to(lm_head.device)
        ids = None if batch.token_ids is None else batch.token_ids.to(lm_head.device)
        if self.adapter.by_position:  # valid rows only: a padded batch is up to twice as long
            drafter = batch.drafter_hidden.to(lm_head.device)[mask].float()
            states = self.adapter(drafter[None])[0]
            told = None if ids is None else ids[mask]
            return weighed(loss_terms(states, target[mask], told, lm_head, self.settings), self.settings)
        predicted = predictions(self.adapter, batch, lm_head, self.settings.depths)
        ahead = [(offset, states, 1.0 / len(predicted)) for offset, states in predicted]
        share = self.settings.same_position if self.adapter.runs_ahead else 0.0
        rows = [(offset, states, (1 - share) * weight) for offset, states, weight in ahead]
        if share:
            rows.append((0, predicted[0][1], share))
        sums: dict[str, Tensor] = {}
        for offset, states, weight in rows:
            valid = moved(mask, offset, False)
            if not valid.any():
                continue
            told = None if ids is None else moved(ids, offset)[valid]
            terms = loss_terms(states[valid], moved(target, offset)[valid], told, lm_head, self.settings)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros((), device=term.device)) + weight * term
        if not sums:  # no sample is long enough to run ahead in
            return {"loss": predicted[0][1].sum() * 0.0}
        return weighed(sums, self.settings)


def split_by_sequence(states: HiddenStates, share: float = 0.15) -> tuple[HiddenStates, HiddenStates]:
    """Training and validation part; no sequence is in both. The last sequences, in order of name, validate.

    Raises:
        ValueError: fewer than two sequences.
    """
    sequences = states.sequences
    if len(sequences) < 2:
        raise ValueError(f"{states.folder}: {len(sequences)} sequences; a validation split needs at least 2")
    kept = min(len(sequences) - 1, max(1, round((1 - share) * len(sequences))))
    return states.select(sequence=sequences[:kept]), states.select(sequence=sequences[kept:])


def train_adapter(
    adapter: Adapter,
    states: HiddenStates,
    folder: str | os.PathLike[str],
    settings: FitSettings | None = None,
    loss: LossSettings | None = None,
    lm_head: Tensor | None = None,
    validation: HiddenStates | None = None,
) -> Fit:
    """Train a level, or go on where the run in `folder` stands.

    Args:
        adapter: with fresh weights; its device is where training happens.
        states: what to train on, streamed: memory holds a batch, whatever the folder's size.
        folder: run folder (see `new_run_folder`); the best weights are in its `best/`.
        settings, loss: how; defaults when left out.
        lm_head: [V, hidden] of the target; the folder's own when left out.
        validation: all of it is judged after each epoch; when left out, some sequences of `states` are kept for it.

    Raises:
        ValueError: see `fit`; or there is no lm head.
    """
    loss = loss or LossSettings()
    device = next(adapter.parameters()).device
    head = (states.target_head.lm_head if lm_head is None else lm_head).detach().to(device)
    return train_from_store(
        Objective(adapter, head, loss),
        states,
        validation,
        lambda held: judge(adapter, held, head, gammas=(5,)),
        lambda place, row: save_adapter(adapter, place, **row),
        settings or FitSettings(),
        Path(folder),
        {"adapter": adapter.settings.to_dict(), "loss": asdict(loss)},
    )


def train_from_store(
    objective: nn.Module,
    states: HiddenStates,
    validation: HiddenStates | None,
    judged: Callable[[HiddenStates], Judgement],
    save_best: Callable[[Path, Row], object],
    settings: FitSettings,
    folder: Path,
    description: dict[str, Any],
) -> Fit:
    """`fit` on shuffled batches of the store, with `judged` over all of `validation` after each epoch."""
    if validation is None:
        states, validation = split_by_sequence(states)
    held = validation

    def batches(epoch: int) -> Iterator[HiddenBatch]:
        for batch in states.stream(settings.batch_size, shuffle=True, seed=settings.seed * 1_000_003 + epoch):
            yield batch.padded()

    return fit(
        objective,
        batches,
        -(-len(states) // settings.batch_size),
        lambda: judged(held).figures(),
        save_best,
        settings,
        folder,
        description | {"num_samples": len(states)},
    )
