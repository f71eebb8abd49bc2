"""Token adapters judged on samples they were not trained on, fold by fold, beside predictors that know less."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egptlib._sealed import write_sealed
from egptlib.adapters._build import read_tensors, write_tensors
from egptlib.adapters._files import read_form
from egptlib.adapters._fit import FitSettings, Row
from egptlib.adapters._judge import Majority, length_gain
from egptlib.adapters._token_adapter import (
    NOTHING,
    NUM_RANKS,
    TokenAdapter,
    TokenAdapterSettings,
    pad_ids,
    rank_tokens,
    replayed,
    score_guesses,
    train_token_adapter,
)
from egptlib.metrics import Estimate, Rejections

GUESSES, FOLDS = "guesses.safetensors", "folds.json"
FORMAT = "egptlib token folds"
IDENTITY, ADAPTER = "drafter's own tokens (identity)", "token adapter"
MAJORITY, MAJORITY_BY_QUESTION = "majority by position", "majority by question"
HELD_SHARE = 0.15

Fold = tuple[Sequence[int], Sequence[int]]
"""Numbers of the samples to train on, and of those to judge."""


@dataclass(frozen=True)
class TokenFolds:
    """What a cross-validation of the token adapter left.

    Attributes:
        target: int64 [sample, position], the target's tokens; `NOTHING` behind an answer's end.
        guesses: method -> int64 [sample, position, rank], the likeliest first, of the fold that had not seen the
            sample; the drafter's own tokens have one rank.
        histories: per fold the rows of `Fit.history`, on the samples held back from its training part.
        held_majority: per fold what the majority predictor scores on these same samples: top1, top5.
    """

    target: Tensor
    guesses: dict[str, Tensor]
    histories: list[list[Row]]
    held_majority: list[Row]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> TokenFolds:
        """Open what `cross_validate_tokens` left in `folder`."""
        path = Path(folder) / FOLDS
        content = read_form(path, FORMAT, "a finished run of `egptlib train-tokens`")
        guesses = read_tensors(Path(folder) / GUESSES)
        return cls(guesses.pop("target"), guesses, content["histories"], content["held_majority"])

    def rows(self, first: int = 0, gamma: int | None = None) -> list[dict[str, Any]]:
        """One row a method: `score_guesses` over all samples."""
        return [{"method": name, **score_guesses(ids, self.target, first, gamma)} for name, ids in self.guesses.items()]

    def gain(self, over: str = MAJORITY, clusters: Sequence[Hashable] | None = None, first: int = 0) -> Estimate:
        """Top-1 of the adapter minus that of another method; the interval is over clusters of samples.

        When `clusters` is left out, 20 neighbours are one: recorded clips that follow one another look alike.
        """
        clusters = [i // 20 for i in range(len(self.target))] if clusters is None else clusters
        return top1_gain(self.guesses[ADAPTER], self.guesses[over], self.target, clusters, first)

    def length_gain(self, over: str, clusters: Sequence[Hashable], gamma: int = 5) -> Estimate:
        """Mean acceptance length of the adapter minus that of another method, by replay along the target's path."""
        ours, other = (replayed(self.guesses[name], self.target, gamma).answers for name in (ADAPTER, over))
        return length_gain(ours, other, clusters)


def top1_gain(
    guesses: Tensor, other: Tensor, target: Tensor, clusters: Sequence[Hashable] | None = None, first: int = 0
) -> Estimate:
    """Top-1 of `guesses` minus that of `other` on the same positions, with its interval over `clusters` of samples."""
    labels, matches = [], []
    for row, baseline, wanted in zip(guesses[..., 0], other[..., 0], target):
        told = wanted >= 0
        told[:first] = False
        labels.append(["other"] * int(told.sum()) + ["guesses"] * int(told.sum()))
        matches.append(torch.cat([(baseline == wanted)[told], (row == wanted)[told]]))
    return Rejections.count(labels, matches, clusters).difference("other", "guesses")


def majority_guesses(
    fitted: Tensor, length: int, groups: Sequence[object] | None = None, judged_groups: Sequence[object] = (None,)
) -> Tensor:
    """Guesses of the majority predictor: int64 [judged sample, `length`, rank].

    Args:
        fitted: int64 [sample, position], the target's tokens of the training part.
        length: positions to guess.
        groups: what each fitted sample belongs to, such as its question; None: all to one.
        judged_groups: of the samples to judge; one None when all are judged alike.
    """
    majority = Majority([row[row >= 0].tolist() for row in fitted], groups)
    by_group = {group: majority.ranked(length, NUM_RANKS, group) for group in dict.fromkeys(judged_groups)}
    return torch.tensor([by_group[group] for group in judged_groups])


def halves(num_samples: int, at: int | None = None, sequences: Sequence[Hashable] | None = None) -> list[Fold]:
    """Two folds of neighbours: the first `at` samples (half of them when left out) and the rest.

    With `sequences`, what each sample belongs to, the border moves forward to where the next sequence begins.
    """
    at = num_samples // 2 if at is None else at
    while sequences is not None and 0 < at < num_samples and sequences[at] == sequences[at - 1]:
        at += 1
    if not 1 <= at < num_samples:
        raise ValueError(f"fold of {at} samples: expected 1 to {num_samples - 1}")
    first, second = range(at), range(at, num_samples)
    return [(first, second), (second, first)]


def cross_validate_tokens(
    drafter_ids: Sequence[Sequence[int]] | Sequence[Tensor],
    target_ids: Sequence[Sequence[int]] | Sequence[Tensor],
    folds: Sequence[Fold],
    folder: str | os.PathLike[str],
    settings: TokenAdapterSettings | None = None,
    training: FitSettings | None = None,
    questions: Sequence[str] | None = None,
    sequences: Sequence[Hashable] | None = None,
) -> TokenFolds:
    """Train a token adapter on each fold and judge it on the rest, or go on where `folder` stands.

    The last 15 % of a training part are held back to choose the epoch, so nothing of the judged part is looked at.

    Args:
        drafter_ids, target_ids: per sample; no BOS.
        folds: which samples to train on and which to judge; each sample is judged once.
        folder: run folder: `fold_1/`, `fold_2/`, ... (see `fit`), `guesses.safetensors`, `folds.json`.
        settings, training: defaults when left out.
        questions: what each sample was asked; adds the majority predictor that knows it.
        sequences: what each sample belongs to; none is both trained on and held back, where there are two.

    Raises:
        ValueError: the folds do not judge each sample once, or train on fewer than two; or see `fit`.
    """
    if sorted(i for _, judged in folds for i in judged) != list(range(len(target_ids))):
        raise ValueError(f"folds: expected each of {len(target_ids)} samples to be judged once")
    if any(len(fitted) < 2 for fitted, _ in folds):
        raise ValueError("folds: expected at least two samples to train on, one of which is held back")
    folder, settings = Path(folder), settings or TokenAdapterSettings()
    training = training or FitSettings(learning_rate=5e-4, monitor="accepted_prefix")
    length = max(map(len, target_ids))
    drafter, target = pad_ids(drafter_ids, length), pad_ids(target_ids, length)
    guesses = {IDENTITY: drafter[..., None]}
    for name in (MAJORITY, ADAPTER, *([MAJORITY_BY_QUESTION] if questions else [])):
        guesses[name] = torch.full((*target.shape, NUM_RANKS), NOTHING)
    histories, held_majority = [], []
    for number, (fitted, judged) in enumerate(folds, start=1):
        kept = min(len(fitted) - 1, max(1, round((1 - HELD_SHARE) * len(fitted))))
        border = kept
        while sequences and border > 0 and sequences[fitted[border - 1]] == sequences[fitted[kept]]:
            border -= 1
        train, held = list(fitted[: border or kept]), list(fitted[border or kept :])
        torch.manual_seed(training.seed)
        fit_on, choose_on = ((drafter[part], target[part]) for part in (train, held))
        result = train_token_adapter(TokenAdapter(settings), fit_on, choose_on, folder / f"fold_{number}", training)
        histories.append(result.history)
        common = majority_guesses(target[train], length)
        held_majority.append(score_guesses(common, target[held]))
        rows, seen = list(judged), target[list(fitted)]
        guesses[MAJORITY][rows] = majority_guesses(seen, length)
        if questions:
            asked, asked_now = ([questions[i] for i in part] for part in (fitted, judged))
            guesses[MAJORITY_BY_QUESTION][rows] = majority_guesses(seen, length, asked, asked_now)
        guesses[ADAPTER][rows] = rank_tokens(TokenAdapter.load(result.folder), drafter[rows], NUM_RANKS)
    write_tensors(folder / GUESSES, {"target": target, **guesses})
    told: Mapping[str, object] = {"adapter": asdict(settings), "training": asdict(training)}
    write_sealed(folder / FOLDS, {"format": FORMAT, **told, "histories": histories, "held_majority": held_majority})
    return TokenFolds.open(folder)
