"""What an adapter is worth: what a decoder would accept, beside cosines and beside baselines that know less."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from egptlib._likeliest import likeliest
from egptlib.adapters._batches import given, predictions
from egptlib.adapters._layers import moved
from egptlib.adapters._levels import Adapter
from egptlib.hidden_states import HiddenBatch, HiddenStates
from egptlib.metrics import AcceptanceAccumulator, Estimate, bootstrap

GAMMAS = tuple(range(1, 11))


@dataclass(frozen=True)
class Judgement:
    """One row of the table.

    Attributes:
        name: the level or baseline.
        mean_acceptance_length: gamma -> tokens per target pass, bonus included.
        accepted_prefix: mean accepted draft tokens of the first draft, up to the largest gamma.
        top1, top5: share of positions whose token is the likeliest, or among the five likeliest.
        cosine: figures of `acceptance_metrics` on the aligned states; empty where there are only tokens,
            or states of another width than the target's.
        num_parameters: of the adapter.
        answers: tokens and target passes of each answer, at `gamma`.
    """

    name: str
    mean_acceptance_length: dict[int, float]
    accepted_prefix: float
    top1: float
    top5: float | None
    cosine: dict[str, Any]
    num_parameters: int = 0
    answers: tuple[tuple[int, int], ...] = ()

    @property
    def gamma(self) -> int:
        """The largest gamma up to 5, at which the levels are compared."""
        return reference_gamma(self.mean_acceptance_length)

    def figures(self) -> dict[str, float]:
        """As one flat row; `mean_acceptance_length` is that of `gamma`."""
        gamma = self.gamma
        row = {"mean_acceptance_length": self.mean_acceptance_length[gamma], "accepted_prefix": self.accepted_prefix}
        row["top1"] = self.top1
        if self.top5 is not None:
            row["top5"] = self.top5
        wanted = ("cos_sim_mean", "accept_80", "accept_90", "consecutive_mean_80", "consecutive_mean_90")
        return row | {name: self.cosine[name] for name in wanted if name in self.cosine}


def reference_gamma(gammas: Iterable[int]) -> int:
    """The largest up to 5; the smallest where there is none."""
    chosen = list(gammas)
    return max((gamma for gamma in chosen if gamma <= 5), default=min(chosen))


def acceptance_counts(match: Tensor, gamma: int) -> tuple[int, int]:
    """Tokens after the first, and target passes, of greedy decoding one answer, by replay along the target's path.

    The prefill gives token 0. A round stands at row i, drafts tokens i + 1 to i + gamma, keeps the leading ones that
    are the target's, and adds the target's own next one, as far as the answer goes. Exact where each match is.

    Args:
        match: bool [n, depths]; at [i, d] whether the draft made at row i names token i + 1 + d. False beyond the
            answer.
        gamma: at most the number of depths.
    """
    accepted = match[:, :gamma].int().cumprod(dim=1).sum(dim=1).tolist()
    i, passes, last = 0, 0, len(accepted) - 1
    while i < last:
        i, passes = min(i + accepted[i] + 1, last), passes + 1
    return max(last, 0), passes


def acceptance_length(matches: Sequence[Tensor], gamma: int) -> float:
    """Tokens per target pass over all answers, bonus included; `matches` as for `acceptance_counts`."""
    tokens, passes = (sum(column) for column in zip(*(acceptance_counts(match, gamma) for match in matches)))
    return tokens / passes if passes else 1.0


def length_gain(
    ours: Sequence[Sequence[int]], other: Sequence[Sequence[int]], clusters: Sequence[Hashable]
) -> Estimate:
    """Mean acceptance length of `ours` minus that of `other`, with its 95 % bootstrap interval.

    Args:
        ours, other: `Judgement.answers` of the same answers at the same gamma.
        clusters: what each answer belongs to, such as its sequence; resampled as wholes.
    """
    counts = [(*a, *b) for a, b in zip(ours, other, strict=True)]
    return bootstrap(counts, lambda sums: sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3], clusters)


def by_depth(match: Tensor, depths: int) -> Tensor:
    """Matches by row, bool [n], of a drafter that reads the tokens, as [n, depths] for `acceptance_length`."""
    return torch.stack([moved(match[None], d, False)[0] for d in range(1, depths + 1)], dim=1)


def judge(
    adapter: Adapter, states: HiddenStates, lm_head: Tensor, gammas: Sequence[int] = GAMMAS, name: str | None = None
) -> Judgement:
    """Judge a level on all samples of `states`, which have to lie along the target's path.

    A head that runs ahead is judged on the rows after those it was given, each depth on its own predictions
    (findings C18); its cosines and top-1 are those of the first row after the anchor.
    """
    device = next(adapter.parameters()).device
    lm_head, depths = lm_head.to(device), max(gammas)
    was_training = adapter.training
    adapter.eval()
    with torch.no_grad():
        rows, tokens = adapter.read_by(lm_head)
        title, count = name or adapter.level, adapter.num_parameters
        states_of = partial(predictions, adapter, lm_head=lm_head, depths=depths)
        result = judge_states(title, states_of, states, rows, gammas, count, tokens)
    adapter.train(was_training)
    return result


def judge_states(
    name: str,
    states_of: Callable[[HiddenBatch], list[tuple[int, Tensor]]],
    states: HiddenStates,
    lm_head: Tensor,
    gammas: Sequence[int],
    num_parameters: int = 0,
    tokens: Tensor | None = None,
) -> Judgement:
    """Judge whatever gives states: `states_of` a batch returns what `predictions` does.

    `tokens` are those that the rows of `lm_head` are for, where these are not all.
    """
    depths = max(gammas)
    cosines = AcceptanceAccumulator()
    matches: list[Tensor] = []
    hits1 = hits5 = positions = 0
    for samples in states.stream(64):
        batch = samples.padded()
        if batch.token_ids is None:
            raise ValueError(f"{states.folder}: holds no token ids; judging by acceptance needs them")
        mask, ids = batch.mask.to(lm_head.device), batch.token_ids.to(lm_head.device)
        columns = []
        for offset, aligned in states_of(batch):
            valid = moved(mask, offset, False)
            labels = moved(ids, offset)
            best = torch.zeros((*valid.shape, 5), dtype=torch.long, device=valid.device)
            logits = F.linear(aligned[valid].to(lm_head.dtype), lm_head)
            ids_of = likeliest(logits, 5)
            best[valid] = ids_of if tokens is None else tokens[ids_of]
            match = (best[..., 0] == labels) & valid
            columns.append(match)
            if offset <= 1:
                hits1 += int(match.sum())
                hits5 += int(((best == labels[..., None]).any(dim=-1) & valid).sum())
                positions += int(valid.sum())
                if valid.any() and aligned.shape[-1] == batch.target_hidden.shape[-1]:
                    cosines.update_ragged(
                        [rows[kept] for rows, kept in zip(aligned, valid)],
                        [sample.target_hidden[offset:].to(aligned.device) for sample in samples],
                    )
        for i, length in enumerate(batch.mask.sum(dim=1).tolist()):
            if len(columns) == 1:
                matches.append(by_depth(columns[0][i, :length], depths))
            else:
                matches.append(torch.stack([column[i, :length] for column in columns], dim=1))
    if not positions:
        raise ValueError(f"{states.folder}: none of {len(states)} answers is long enough to judge {name} by")
    return Judgement(
        name=name,
        mean_acceptance_length={gamma: acceptance_length(matches, gamma) for gamma in gammas},
        accepted_prefix=_first(matches),
        top1=hits1 / positions,
        top5=hits5 / positions,
        cosine=cosines.compute() if cosines.num_samples else {},
        num_parameters=num_parameters,
        answers=tuple(acceptance_counts(match, reference_gamma(gammas)) for match in matches),
    )


def _first(matches: Sequence[Tensor]) -> float:
    return statistics.fmean(float(match[:1].int().cumprod(dim=1).sum()) for match in matches)


def judge_tokens(name: str, matches: Iterable[Tensor], gammas: Sequence[int] = GAMMAS) -> Judgement:
    """Judge by tokens alone: `matches` are bool [n] per sample, of a drafter whose token depends on tokens alone."""
    rows = list(matches)
    deep = [by_depth(row, max(gammas)) for row in rows]
    return Judgement(
        name=name,
        mean_acceptance_length={gamma: acceptance_length(deep, gamma) for gamma in gammas},
        accepted_prefix=_first(deep),
        top1=float(sum(int(row.sum()) for row in rows)) / sum(len(row) for row in rows),
        top5=None,
        cosine={},
        answers=tuple(acceptance_counts(match, reference_gamma(gammas)) for match in deep),
    )


class Majority:
    """The commonest token at each position (and question), fitted on one part and judged on another."""

    def __init__(self, rows: Iterable[Sequence[int]], groups: Iterable[Any] | None = None) -> None:
        """`groups` names what each row belongs to, such as its question; None: all to one."""
        counts: dict[tuple[Any, int], Counter[int]] = defaultdict(Counter)
        rows = list(rows)
        for row, group in zip(rows, groups if groups is not None else [None] * len(rows), strict=True):
            for position, token in enumerate(row):
                counts[group, position][int(token)] += 1
        self._ranked = {key: [token for token, _ in counter.most_common()] for key, counter in counts.items()}

    def ranked(self, length: int, count: int, group: Any = None) -> list[list[int]]:
        """The `count` commonest tokens at each position, commonest first; -1 where fewer were seen."""
        rows = (self._ranked.get((group, position), [])[:count] for position in range(length))
        return [row + [-1] * (count - len(row)) for row in rows]

    def predict(self, length: int, group: Any = None) -> list[int]:
        """The tokens of an answer; -1 at positions that were never seen."""
        return [row[0] for row in self.ranked(length, 1, group)]


def judge_baselines(
    states: HiddenStates, train: HiddenStates, lm_head: Tensor, gammas: Sequence[int] = GAMMAS
) -> list[Judgement]:
    """What knows less: the drafter's own tokens, the identity map, the mean target state, and majority tokens.

    The mean state and the majorities are fitted on `train`, by position, the last also by question.
    """
    own: list[Tensor] = []
    rows: list[tuple[list[int], Any]] = []
    same_width = True
    for samples in states.stream(64):
        for sample in samples:
            same_width = sample.drafter_hidden.shape[1] == lm_head.shape[1]
            own.append(sample.match)
            assert sample.token_ids is not None  # `match` has looked
            rows.append((sample.token_ids.tolist(), sample.metadata.get("question")))
    result = [judge_tokens("drafter's own tokens", own, gammas)]
    if same_width:
        result.append(judge_states("identity", lambda batch: [(0, batch.drafter_hidden)], states, lm_head, gammas))
    sums: dict[int, Tensor] = {}
    counts: Counter[int] = Counter()
    seen: list[tuple[list[int], Any]] = []
    for batch in train.chunks():
        assert batch.token_ids is not None
        for i, length in enumerate(batch.mask.sum(dim=1).tolist()):
            seen.append((batch.token_ids[i, :length].tolist(), batch.metadata[i].get("question")))
        for t in range(batch.mask.shape[1]):
            part = batch.target_hidden[batch.mask[:, t], t].double()
            sums[t] = sums.get(t, torch.zeros(part.shape[1], dtype=torch.double)) + part.sum(dim=0)
            counts[t] += len(part)
    mean = torch.stack([(sums[t] / counts[t]).float() for t in sorted(sums)])  # [longest, hidden]

    def mean_states(batch: HiddenBatch) -> list[tuple[int, Tensor]]:
        places = torch.arange(batch.mask.shape[1]).clamp(max=len(mean) - 1)
        return [(0, mean[places].expand(len(batch.mask), -1, -1))]

    result.append(judge_states("mean state by position", mean_states, states, lm_head, gammas))
    for name, grouped in (("majority by position", False), ("majority by question", True)):
        majority = Majority([row for row, _ in seen], [group for _, group in seen] if grouped else None)
        hits = []
        for row, group in rows:
            guess = majority.predict(len(row), group if grouped else None)
            hits.append(torch.tensor([a == b for a, b in zip(row, guess, strict=True)]))
        result.append(judge_tokens(name, hits, gammas))
    return result


def measure_latency(adapter: Adapter, states: HiddenStates, lm_head: Tensor, repeats: int = 20) -> float:
    """Seconds of one call on one sample as it is, median of `repeats` after one that is not counted."""
    batch = next(iter(states[:1].chunks()))
    tensors = given(adapter, batch, lm_head)
    times = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            adapter(*tensors)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
