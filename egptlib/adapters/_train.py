"""Training a level on stored hidden states, streamed from the store: the terms of its loss, batches, the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egptlib._ahead import ahead
from egptlib._sealed import content_checksum
from egptlib._whole import check_fields
from egptlib.adapters._batches import flat, predictions
from egptlib.adapters._files import save_adapter
from egptlib.adapters._fit import Fit, FitSettings, Row, fit
from egptlib.adapters._judge import Judgement, judge
from egptlib.adapters._layers import moved
from egptlib.adapters._levels import Adapter
from egptlib.hidden_states import HiddenBatch, HiddenSample, HiddenStates, RaggedBatch
from egptlib.models import row_of


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

    def __post_init__(self) -> None:
        weights = dict.fromkeys(("mse", "cosine", "token", "kl"), "[0, inf)")
        check_fields(self, "loss setting", **weights, same_position="[0, 1]", depths=1)
        if not any(getattr(self, name) for name in weights):
            raise ValueError("loss settings: expected one of mse, cosine, token, kl to weigh something")


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


BLOCK = 8
"""Batches that are read at once, to put answers of one length together."""


class Objective(nn.Module):
    """The weighted loss of a batch of stored samples."""

    def __init__(self, adapter: Adapter, lm_head: Tensor, settings: LossSettings) -> None:
        super().__init__()
        self.adapter, self.settings = adapter, settings
        self.register_buffer("lm_head", lm_head, persistent=False)
        rows, tokens = adapter.read_by(lm_head)
        self.register_buffer("rows", rows, persistent=False)
        self.labels = None if tokens is None else row_of(tokens, len(lm_head))

    def forward(self, batch: HiddenBatch) -> dict[str, Tensor]:
        lm_head: Tensor = self.lm_head  # type: ignore[assignment]
        rows: Tensor = self.rows  # type: ignore[assignment]
        target, mask = batch.target_hidden.to(lm_head.device).float(), batch.mask.to(lm_head.device)
        ids = None if batch.token_ids is None else batch.token_ids.to(lm_head.device)
        if ids is not None and self.labels is not None:
            ids = self.labels[ids.long()]
        if self.adapter.by_position and mask.all():  # `flat`: nothing to leave out
            ((_, states),) = predictions(self.adapter, batch, lm_head, 1)
            told = None if ids is None else ids.flatten()
            return weighed(loss_terms(states[0], target[0], told, rows, self.settings), self.settings)
        predicted = predictions(self.adapter, batch, lm_head, self.settings.depths)
        ahead = [(offset, states, 1.0 / len(predicted)) for offset, states in predicted]
        share = self.settings.same_position if self.adapter.runs_ahead else 0.0
        parts = [(offset, states, (1 - share) * weight) for offset, states, weight in ahead]
        if share:
            parts.append((0, predicted[0][1], share))
        sums: dict[str, Tensor] = {}
        for offset, states, weight in parts:
            valid = moved(mask, offset, False)
            if not valid.any():
                continue
            told = None if ids is None else moved(ids, offset)[valid]
            terms = loss_terms(states[valid], moved(target, offset)[valid], told, rows, self.settings)
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
    learner = Learner(
        Objective(adapter, head, loss),
        lambda held: judge(adapter, held, head, gammas=(5,)),
        lambda place, row: save_adapter(adapter, place, **row),
        {"adapter": adapter.settings.to_dict(), "loss": asdict(loss)},
        adapter.inputs if adapter.by_position else None,
    )
    return train_from_store(learner, states, validation, settings or FitSettings(), Path(folder))


class Learner(NamedTuple):
    """What `train_from_store` trains: `objective`, `save_best` and `description` as for `fit`.

    Attributes:
        judged: over all validation samples, after every epoch.
        rows_of: see `shuffled`.
    """

    objective: nn.Module
    judged: Callable[[HiddenStates], Judgement]
    save_best: Callable[[Path, Row], object]
    description: dict[str, Any]
    rows_of: Sequence[str] | None = None


def train_from_store(
    learner: Learner, states: HiddenStates, validation: HiddenStates | None, settings: FitSettings, folder: Path
) -> Fit:
    """`fit` on shuffled batches of the store; some sequences of it are kept for validation where none is given."""
    if validation is None:
        states, validation = split_by_sequence(states)
    held, rows_of = validation, learner.rows_of

    def batches(epoch: int) -> Iterator[HiddenBatch]:
        return shuffled(states, settings.batch_size, settings.seed * 1_000_003 + epoch, rows_of)

    steps = -(-len(states) // settings.batch_size)
    if rows_of is not None:
        steps = -(-int(states.lengths.sum()) // rows_per_step(states, settings.batch_size))
    told = learner.description | {"num_samples": len(states), "samples": _fingerprint(states, held)}

    def figures() -> Row:
        return learner.judged(held).figures()

    return fit(learner.objective, batches, steps, figures, learner.save_best, settings, folder, told)


def _fingerprint(*parts: HiddenStates) -> str:
    """Tells samples from others: by what their folder depends on, and the scene, question and length of each."""
    keys = [[(m.get("scene"), m.get("question")) for m in part.metadata()] for part in parts]
    return content_checksum({"of": [(p.config, own, p.lengths.tolist()) for p, own in zip(parts, keys, strict=True)]})


def shuffled(
    states: HiddenStates, batch_size: int, seed: int, rows_of: Sequence[str] | None = None
) -> Iterator[HiddenBatch]:
    """One epoch of batches in random order; the next one is read while the present one is trained on.

    Args:
        rows_of: for levels that treat each row by itself, the fields they take: a batch is then a single row without
            padding (`flat`), as long as `batch_size` samples are on average. None: whole samples, padded.
    """
    return ahead(_padded(states, batch_size, seed) if rows_of is None else _rows(states, batch_size, seed, rows_of))


def _padded(states: HiddenStates, batch_size: int, seed: int) -> Iterator[HiddenBatch]:
    """`BLOCK` batches at a time, those of one length share a batch, so that little is padding."""
    generator = torch.Generator().manual_seed(seed)
    for block in states.stream(BLOCK * batch_size, shuffle=True, seed=seed):
        parts = block.lengths.argsort(stable=True).split(batch_size)
        for number in torch.randperm(len(parts), generator=generator).tolist():
            yield RaggedBatch([block[i] for i in parts[number].tolist()]).padded()


def rows_per_step(states: HiddenStates, batch_size: int) -> int:
    """Positions of `batch_size` samples on average."""
    return max(1, -(-int(states.lengths.sum()) // max(1, -(-len(states) // batch_size))))


def _rows(states: HiddenStates, batch_size: int, seed: int, inputs: Sequence[str]) -> Iterator[HiddenBatch]:
    """All positions, sample after sample, cut into steps of one size, the last one smaller.

    One size for all also bounds memory: glibc does not use freed rows again for rows of another number, and the heap
    grows by 1 MB a step at width 256.
    """
    wanted = rows_per_step(states, batch_size)
    parts: list[tuple[HiddenSample, slice]] = []
    size = 0
    for samples in states.stream(batch_size, shuffle=True, seed=seed):
        for sample in samples:
            start = 0
            while size + len(sample) - start >= wanted:
                stop = start + wanted - size
                yield flat([*parts, (sample, slice(start, stop))], inputs)
                parts, size, start = [], 0, stop
            if start < len(sample):
                parts.append((sample, slice(start, len(sample))))
                size += len(sample) - start
    if parts:
        yield flat(parts, inputs)
