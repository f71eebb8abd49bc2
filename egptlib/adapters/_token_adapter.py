"""TokenAdapter: a small transformer that reads the drafter's tokens and writes what the target would say there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from egptlib._likeliest import likeliest
from egptlib._sealed import content_checksum
from egptlib._whole import check_fields
from egptlib.adapters._build import fill, read_tensors
from egptlib.adapters._files import SETTINGS, WEIGHTS, kept_in, read_form, write_files
from egptlib.adapters._fit import Fit, FitSettings, Row, fit
from egptlib.adapters._judge import Judgement, judge_tokens
from egptlib.adapters._layers import Layer

FORMAT = "egptlib token adapter"
NUM_RANKS = 5
NOTHING = -1
"""Stands in a row of ids where the drafter (or the target) has said nothing."""


@dataclass(frozen=True)
class TokenAdapterSettings:
    """Everything it is built from. The defaults give 45.6 million parameters at a vocabulary of 32,000."""

    vocab_size: int = 32_000
    hidden_size: int = 512
    num_layers: int = 4
    num_heads: int = 8
    ffn_dim: int = 2048
    max_positions: int = 512
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self, "token adapter setting", vocab_size=1, hidden_size=1, num_layers=1, num_heads=1, ffn_dim=1,
                     max_positions=1, dropout="[0, 1)")  # fmt: skip
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"token adapter settings: num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}"
            )


class TokenAdapter(nn.Module):
    """Token t of the target from the drafter's tokens up to t: causal, so that it can be used while drafting."""

    def __init__(self, settings: TokenAdapterSettings | None = None, **changes: Any) -> None:
        super().__init__()
        self.settings = s = replace(settings or TokenAdapterSettings(), **changes)
        self.embedding = nn.Embedding(s.vocab_size + 1, s.hidden_size)  # the last row: the drafter has stopped
        self.positions = nn.Parameter(torch.randn(1, s.max_positions, s.hidden_size) * 0.02)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(
            Layer(s.hidden_size, s.num_heads, s.ffn_dim, s.dropout, causal=True) for _ in range(s.num_layers)
        )
        self.norm = nn.LayerNorm(s.hidden_size)
        self.lm_head = nn.Linear(s.hidden_size, s.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def hidden(self, drafter_ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time hidden"]:
        """What the lm head reads. `NOTHING` stands where the drafter has stopped.

        Raises:
            ValueError: ids that it does not know, or too many.
        """
        ids, s = drafter_ids.long(), self.settings
        if ids.shape[1] > s.max_positions or (ids >= s.vocab_size).any():
            raise ValueError(
                f"token adapter: expected up to {s.max_positions} ids below {s.vocab_size}, "
                f"found {ids.shape[1]} of up to {int(ids.max())}"
            )
        x = self.embedding(ids.where(ids >= 0, s.vocab_size)) + self.positions[:, : ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def forward(self, drafter_ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        """Logits of the target's token at each position."""
        return self.lm_head(self.hidden(drafter_ids))

    def save(self, folder: str | os.PathLike[str], **notes: Any) -> Path:
        """Write `adapter.json` and `adapter.safetensors`."""
        return write_files(folder, FORMAT, asdict(self.settings), self.state_dict(), notes)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TokenAdapter:
        """Open one that was saved (or the run folder it is the best of), in evaluation mode."""
        folder = kept_in(Path(folder))
        content = read_form(folder / SETTINGS, FORMAT, "a token adapter's folder")
        adapter = cls(TokenAdapterSettings(**content["settings"]))
        fill(adapter, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
        return adapter.eval()


class _TokenObjective(nn.Module):
    def __init__(self, adapter: TokenAdapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        drafter, target = batch
        told = target >= 0
        logits = self.adapter.lm_head(self.adapter.hidden(drafter)[told])  # [told, vocab]: none for padding
        loss = F.cross_entropy(logits.float(), target[told].long(), reduction="sum")
        return {"loss": loss / told.sum().clamp_min(1)}  # a batch in which the target says nothing teaches nothing


def pad_ids(rows: Sequence[Sequence[int]] | Sequence[Tensor], length: int) -> Tensor:
    """Rows of ids as one int64 tensor [rows, length], cut or filled with `NOTHING`."""
    padded = torch.full((len(rows), length), NOTHING)
    for i, row in enumerate(rows):
        ids = torch.as_tensor(row, dtype=torch.long)[:length]
        padded[i, : len(ids)] = ids
    return padded


def train_token_adapter(
    adapter: TokenAdapter,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    folder: str | os.PathLike[str],
    settings: FitSettings | None = None,
) -> Fit:
    """Train on (drafter ids, target ids), each [samples, positions] (see `pad_ids`), or go on where `folder` stands.

    The best epoch is that of the most accepted tokens on `validation`; history has loss, top-1 and top-5 of both.

    Raises:
        ValueError: no token of the target in one of the two; or see `fit`.
    """
    settings = settings or FitSettings(learning_rate=5e-4, monitor="accepted_prefix")
    drafter, target = train
    if not all((said >= 0).any() for _, said in (train, validation)):
        raise ValueError(f"{folder}: nothing to train on, or nothing to judge by: the target says nothing")
    size = settings.batch_size

    def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        return [(drafter[rows], target[rows]) for rows in torch.randperm(len(drafter), generator=generator).split(size)]

    return fit(
        _TokenObjective(adapter),
        batches,
        -(-len(drafter) // size),
        lambda: judge_token_adapter(adapter, *validation),
        lambda place, row: adapter.save(place, **row),
        settings,
        Path(folder),
        {
            "adapter": asdict(adapter.settings),
            "num_samples": len(drafter),
            "samples": _fingerprint(*train, *validation),
        },
    )


def _fingerprint(*ids: Tensor) -> str:
    return content_checksum({"ids": [rows.tolist() for rows in ids]})


def rank_tokens(adapter: TokenAdapter, drafter: Tensor, count: int = 5, batch_size: int = 16) -> Tensor:
    """The adapter's `count` likeliest target tokens at each position, best first: int64 [samples, positions, count]."""
    adapter.eval()
    with torch.no_grad():
        kept = min(count, adapter.settings.vocab_size)
        best = torch.cat([likeliest(adapter(rows), kept) for rows in drafter.split(batch_size)])
        return F.pad(best, (0, count - kept), value=NOTHING)


def judge_token_adapter(adapter: TokenAdapter, drafter: Tensor, target: Tensor, batch_size: int = 64) -> Row:
    """Figures over all positions where the target says something.

    Returns:
        `validation_loss` (nats per token), `top1`, `top5`, and `accepted_prefix`, the mean number of leading tokens
        that are the target's.
    """
    adapter.eval()
    loss, guesses = 0.0, []
    with torch.no_grad():
        for ids, labels in zip(drafter.split(batch_size), target.split(batch_size), strict=True):
            told = labels >= 0
            logits = adapter.lm_head(adapter.hidden(ids)[told]).float()
            loss += F.cross_entropy(logits, labels[told], reduction="sum").item()
            best = likeliest(logits, min(NUM_RANKS, logits.shape[1]))
            guesses.append(torch.full((*labels.shape, NUM_RANKS), NOTHING, device=labels.device))
            guesses[-1][told, : best.shape[1]] = best
    return {"validation_loss": loss / int((target >= 0).sum()), **score_guesses(torch.cat(guesses), target)}


def score_guesses(guesses: Tensor, target: Tensor, first: int = 0, gamma: int | None = None) -> Row:
    """Figures of ranked guesses over the positions from `first` on where the target says something.

    Args:
        guesses: int [sample, position, rank].
        target: int [sample, position].
        first: 1 leaves out the first token, as the earlier adapter was judged; the prefix is always the whole one.
        gamma: draft tokens per target pass; only for guesses along the target's path.

    Returns:
        `top1`, `top5` (left out with fewer than five ranks), `accepted_prefix`, the mean number of leading tokens
        that are the target's, and with `gamma` also `mean_acceptance_length`, by replay.
    """
    told = target >= 0
    hits = (guesses == target[..., None]) & told[..., None]
    total = int(told[:, first:].sum())
    row = {"top1": int(hits[:, first:, 0].sum()) / total}
    if guesses.shape[2] >= 5:
        row["top5"] = int(hits[:, first:, :5].any(dim=-1).sum()) / total
    row["accepted_prefix"] = hits[..., 0].int().cumprod(dim=1).sum(dim=1).float().mean().item()
    if gamma is not None:
        row["mean_acceptance_length"] = replayed(guesses, target, gamma).mean_acceptance_length[gamma]
    return row


def replayed(guesses: Tensor, target: Tensor, gamma: int) -> Judgement:
    """The first guesses replayed along the target's path."""
    lengths = (target >= 0).sum(dim=1).tolist()
    hits = guesses[..., 0] == target
    return judge_tokens("", [hit[:length] for hit, length in zip(hits, lengths)], (gamma,))
