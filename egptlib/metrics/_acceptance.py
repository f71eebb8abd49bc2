"""Feature acceptance: cosine between the drafter's and the target's hidden states, and what a threshold keeps.

This is the lossy proxy of the earlier work. The exact figure, equal tokens, is in `_tokens.py`.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num, Real
from torch import Tensor

States = Float[Tensor, "sample position hidden"]
Mask = Num[Tensor, "sample position"] | Bool[Tensor, "sample position"]

THRESHOLDS = (0.80, 0.85, 0.90, 0.95)
SD_THRESHOLD = 0.90  # the `sd_*` and `position_*` figures of the earlier script are taken at this one
DECODE_GAMMA = 5
_POSITIONS_LISTED = 20
_BLOCK_ELEMENTS = 2**22  # hidden values converted to float32 at a time: 16 MB, whatever the batch


def acceptance_metrics(
    drafter_hidden: States, target_hidden: States, mask: Mask, thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, Any]:
    """Return every figure of the feature-acceptance table as plain numbers.

    A position is accepted when cos(drafter, target) > threshold. What is outside the mask is never read.
    A row without a valid position is a sample of length 0 that accepts 0 tokens: it counts in `batch_size`,
    `num_hidden_tokens_*`, `consecutive_*` and `sd_consecutive_gamma5`, and adds nothing to the figures over
    positions. A position the mask leaves out inside a row ends that row's run like a rejection.

    `std` is the sample standard deviation (0.0 of a single value), `median` of an even count the lower of
    the two middle values. A threshold is named by its percentage: `accept_90`, or `accept_92.5` for 0.925.

    Args:
        drafter_hidden: last hidden states after the final norm, any float dtype; cosines are float32.
        target_hidden: the same positions of the target, of the same width.
        mask: true (or 1) where a position holds a token.
        thresholds: each in [-1, 1].

    Returns:
        `batch_size`, `max_seq_len`, `hidden_dim`, `total_valid_positions`;
        `cos_sim_{mean,std,min,max,median}`; `num_hidden_tokens_{mean,std,min,max}`;
        per threshold `accept_NN` (share of positions) and `consecutive_{mean,std,max,min,median}_NN` (leading
        accepted positions per sample); and at the threshold 0.90
        `sd_accept_rate_prefill_gamma` (leading accepted positions over `sd_gamma_prefill`, the mean length),
        `sd_consecutive_gamma5` (among the first five), `sd_accept_rate_decode_gamma5` (that over 5),
        `position_accept_90` and `position_mean_sim` (lists: the first 20 positions).

    Raises:
        ValueError: shapes that differ, a mask with other values than 0 and 1, NaN or infinity at a valid
            position (the sample is named), or no valid position at all.

    Example:
        >>> import torch
        >>> drafter, target = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]]), torch.tensor([[[2.0, 0], [0, 1], [0, 3]]])
        >>> table = acceptance_metrics(drafter, target, torch.ones(1, 3), thresholds=[0.9])
        >>> round(table["accept_90"], 3), table["consecutive_mean_90"]  # 2 of 3 positions, 1 before the first rejection
        (0.667, 1.0)
    """
    accumulator = AcceptanceAccumulator(thresholds)
    accumulator.update(drafter_hidden, target_hidden, mask)
    return accumulator.compute()


def per_position_table(
    drafter_hidden: States, target_hidden: States, mask: Mask, thresholds: Sequence[float] = THRESHOLDS
) -> list[dict[str, Any]]:
    """Return `position, mean, std, num_samples, accept_NN ...` per position, over the samples that reach it.

    Positions that no sample reaches are left out. Errors as in `acceptance_metrics`.
    """
    accumulator = AcceptanceAccumulator(thresholds)
    accumulator.update(drafter_hidden, target_hidden, mask)
    return accumulator.per_position()


class AcceptanceAccumulator:
    """The same figures over any number of batches, exactly as if all had been given at once.

    Keeps one float32 cosine per position (10 MB for 52,000 answers of 50 tokens), not the states.

        accumulator = AcceptanceAccumulator()
        for batch in hidden_states.stream(64):
            accumulator.update_ragged([s.drafter_hidden for s in batch], [s.target_hidden for s in batch])
        accumulator.compute()
    """

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS) -> None:
        for threshold in thresholds:
            if not -1.0 <= threshold <= 1.0:
                raise ValueError(f"thresholds: expected cosines in [-1, 1], got {threshold}")
        self.thresholds = tuple(thresholds)
        self.num_samples = 0
        self._hidden_dim: int | None = None
        self._parts: list[tuple[Tensor, Tensor]] = []

    def update(self, drafter_hidden: States, target_hidden: States, mask: Mask) -> None:
        """Add a batch. Samples are numbered on through all batches; an error names that number."""
        part = masked_cosine(drafter_hidden, target_hidden, mask, first_sample=self.num_samples)
        self._add(part[0].cpu(), part[1].cpu(), drafter_hidden.shape[2])

    def update_ragged(self, drafter_hidden: Sequence[Tensor], target_hidden: Sequence[Tensor]) -> None:
        """Add samples of any lengths, one tensor [position, hidden] each, without padding or copying them.

        The figures are those of `update` with the same samples padded, to the last bit; so are the errors.
        """
        pairs = list(zip(drafter_hidden, target_hidden, strict=True))
        if not pairs:
            return
        for number, (drafter, target) in enumerate(pairs, self.num_samples):
            if drafter.ndim != 2 or drafter.shape != target.shape or drafter.shape[1] != drafter_hidden[0].shape[1]:
                raise ValueError(
                    f"sample {number}: drafter_hidden {list(drafter.shape)} and target_hidden {list(target.shape)}: "
                    "expected equal shapes [position, hidden], of one width in all samples"
                )
        lengths = torch.tensor([len(drafter) for drafter, _ in pairs])
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        cosine = torch.zeros(mask.shape)
        cosine[mask] = _row_cosines(pairs).cpu()
        if not torch.isfinite(cosine).all():
            sample, position = cosine.isfinite().logical_not().nonzero()[0].tolist()
            raise _not_finite(pairs[sample][0][position], self.num_samples + sample, position)
        self._add(cosine, mask, drafter_hidden[0].shape[1])

    def _add(self, cosine: Tensor, mask: Tensor, width: int) -> None:
        if self._hidden_dim not in (None, width):
            raise ValueError(
                f"hidden states from sample {self.num_samples} on have width {width}, "
                f"those before it {self._hidden_dim}"
            )
        self._hidden_dim = width
        self._parts.append((cosine, mask))
        self.num_samples += mask.shape[0]

    def cosines(self) -> tuple[Float[Tensor, "sample position"], Bool[Tensor, "sample position"]]:
        """Return the cosines of all samples so far (float32, 0 where the mask is false) and their mask."""
        length = max((mask.shape[1] for _, mask in self._parts), default=0)
        cosine = torch.zeros(self.num_samples, length)
        mask = torch.zeros(self.num_samples, length, dtype=torch.bool)
        row = 0
        for part_cosine, part_mask in self._parts:
            rows, columns = part_mask.shape
            cosine[row : row + rows, :columns] = part_cosine
            mask[row : row + rows, :columns] = part_mask
            row += rows
        return cosine, mask

    def compute(self) -> dict[str, Any]:
        """Return the figures described in `acceptance_metrics`.

        Raises:
            ValueError: no valid position so far.
        """
        cosine, mask = self._valid_cosines()
        valid, lengths = cosine[mask], mask.sum(dim=1)
        figures: dict[str, Any] = {
            "batch_size": self.num_samples,
            "max_seq_len": mask.shape[1],
            "hidden_dim": self._hidden_dim,
            "total_valid_positions": valid.numel(),
        }
        for name, value in _summary(valid).items():
            figures[f"cos_sim_{name}"] = value
        for threshold in self.thresholds:
            figures[f"accept_{_percent(threshold)}"] = _share(valid > threshold)
        for threshold in self.thresholds:
            accepts = consecutive_accepts((cosine > threshold) & mask)
            for name, value in _summary(accepts).items():
                figures[f"consecutive_{name}_{_percent(threshold)}"] = value
        for name, value in _summary(lengths).items():
            if name != "median":
                figures[f"num_hidden_tokens_{name}"] = value
        figures.update(_speculative_rates((cosine > SD_THRESHOLD) & mask, lengths))

        rows = _position_rows(cosine, mask, [SD_THRESHOLD])
        first = [row for i, row in takewhile(lambda item: item[0] == item[1]["position"], enumerate(rows))]
        figures["position_accept_90"] = [row["accept_90"] for row in first[:_POSITIONS_LISTED]]
        figures["position_mean_sim"] = [row["mean"] for row in first[:_POSITIONS_LISTED]]
        return figures

    def per_position(self) -> list[dict[str, Any]]:
        """Return the table described in `per_position_table`."""
        cosine, mask = self._valid_cosines()
        return _position_rows(cosine, mask, self.thresholds)

    def _valid_cosines(self) -> tuple[Tensor, Tensor]:
        cosine, mask = self.cosines()
        if not mask.any():
            raise ValueError(f"no valid position in {self.num_samples} samples: there is nothing to measure")
        return cosine, mask


def telling_thresholds(cosines: Float[Tensor, "position"], standard: Sequence[float] = THRESHOLDS) -> tuple[float, ...]:
    """Return the standard thresholds, or, where fewer than a hundredth lies above the lowest, ones that do tell.

    These are the cosines above which 90, 75, 50, 25 and 10 % of the positions lie, rounded to a hundredth.
    """
    if _share(cosines > min(standard)) >= 0.01:
        return tuple(standard)
    ordered = cosines.sort().values  # torch.quantile takes no more than 16 million
    levels = {round(ordered[int(share * (len(ordered) - 1))].item(), 2) for share in (0.1, 0.25, 0.5, 0.75, 0.9)}
    return tuple(sorted(level + 0.0 for level in levels))  # -0.0 would be shown as it is


def consecutive_accepts(accepted: Bool[Tensor, "sample position"]) -> Int[Tensor, "sample"]:
    """Count the leading accepted positions of each row.

    The running product turns zero at the first rejection and stays there, so its sum is the number
    of draft tokens a verifier keeps (greedy case of Leviathan et al. 2023, algorithm 1).
    """
    return accepted.int().cumprod(dim=1).sum(dim=1)


def masked_cosine(
    drafter_hidden: Real[Tensor, "sample position hidden"],
    target_hidden: Real[Tensor, "sample position hidden"],
    mask: Mask,
    first_sample: int = 0,
) -> tuple[Float[Tensor, "sample position"], Bool[Tensor, "sample position"]]:
    """Return the cosine at each valid position (float32, 0 elsewhere) and the mask as bool.

    A vector of zeros has cosine 0 with everything. `first_sample` is added to the sample number in errors.

    Raises:
        ValueError: as `acceptance_metrics`.
    """
    valid = _checked_mask(drafter_hidden, target_hidden, mask)
    cosine = torch.zeros(valid.shape, dtype=torch.float32, device=drafter_hidden.device)
    per_sample = max(1, drafter_hidden.shape[1] * drafter_hidden.shape[2])
    step = max(1, _BLOCK_ELEMENTS // per_sample)
    for start in range(0, valid.shape[0], step):
        rows = slice(start, start + step)
        keep = valid[rows]
        block = _row_cosines([(drafter_hidden[rows][keep], target_hidden[rows][keep])])
        if not torch.isfinite(block).all():
            sample, position = keep.nonzero()[int(block.isfinite().logical_not().nonzero()[0])].tolist()
            raise _not_finite(drafter_hidden[rows][sample, position], first_sample + start + sample, position)
        cosine[rows][keep] = block
    return cosine, valid


def _row_cosines(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Cosine of each pair of rows of each pair [row, hidden], float32 [all rows]; NaN where one is not finite.

    Rows of bfloat16 in the computer's own memory are read once, where they are; others are converted first.
    """
    if all(rows.dtype == torch.bfloat16 and rows.device.type == "cpu" for pair in pairs for rows in pair):
        from egptlib._row_dots import row_dots  # loads numba, which importing this room should not

        dots = np.empty((sum(len(drafter) for drafter, _ in pairs), 3), np.float32)
        row = 0
        for drafter, target in pairs:
            row_dots(_bits(drafter), _bits(target), dots[row : row + len(drafter)])
            row += len(drafter)
        both, drafter_square, target_square = torch.from_numpy(dots).double().unbind(1)
        if torch.isfinite(drafter_square).all() and torch.isfinite(target_square).all():
            smallest = 1e-8  # as torch's cosine_similarity: zeros have cosine 0
            norms = drafter_square.sqrt().clamp_min(smallest) * target_square.sqrt().clamp_min(smallest)
            return (both / norms).float()
    return torch.cat([_converted_cosine(drafter.float(), target.float()) for drafter, target in pairs])


def _converted_cosine(drafter: Tensor, target: Tensor) -> Tensor:
    finite = torch.isfinite(drafter).all(dim=1) & torch.isfinite(target).all(dim=1)
    return F.cosine_similarity(drafter, target, dim=-1).masked_fill(~finite, torch.nan)


def _bits(states: Tensor) -> np.ndarray:
    return states.detach().contiguous().view(torch.uint16).numpy()


def _not_finite(drafter: Tensor, sample: int, position: int) -> ValueError:
    """The error of a position at which one of the two is not finite: the drafter's, if `drafter` is not."""
    name = "target_hidden" if torch.isfinite(drafter).all() else "drafter_hidden"
    return ValueError(
        f"{name} is not finite at sample {sample}, position {position}: expected numbers at every valid position"
    )


def _checked_mask(drafter_hidden: Tensor, target_hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mask as bool after checking the three shapes against one another."""
    shapes = (tuple(drafter_hidden.shape), tuple(target_hidden.shape), tuple(mask.shape))
    if drafter_hidden.ndim != 3 or target_hidden.shape != drafter_hidden.shape:
        raise ValueError(
            f"drafter_hidden {list(shapes[0])} and target_hidden {list(shapes[1])}: "
            "expected equal shapes [sample, position, hidden]"
        )
    if shapes[2] != shapes[0][:2]:
        raise ValueError(f"mask {list(shapes[2])}: expected [sample, position] = {list(shapes[0][:2])}")
    return as_bool(mask, "mask")


def as_bool(values: Tensor, name: str) -> Tensor:
    """Return booleans, also those given as numbers; ValueError (starting with `name`) for others than 0 and 1."""
    found = values.bool()
    if not torch.equal(found.to(values.dtype), values):
        raise ValueError(f"{name}: expected only 0 and 1 (or booleans)")
    return found


def _summary(values: Tensor) -> dict[str, float]:
    """Return mean, std, min, max and median of a flat tensor, summed in float64."""
    values = values.double()
    return {
        "mean": values.mean().item(),
        "std": values.std().item() if values.numel() > 1 else 0.0,
        "min": values.min().item(),
        "max": values.max().item(),
        "median": values.median().item(),  # torch takes the lower of two middle values
    }


def _speculative_rates(accepted: Tensor, lengths: Tensor) -> dict[str, float]:
    """Return the `sd_*` figures: gamma as long as the answer (prefill hiding), and gamma 5 (decoding)."""
    gamma_prefill = lengths.double().mean().item()
    of_five = consecutive_accepts(accepted[:, :DECODE_GAMMA]).double().mean().item()
    return {
        "sd_accept_rate_prefill_gamma": consecutive_accepts(accepted).double().mean().item() / gamma_prefill,
        "sd_gamma_prefill": gamma_prefill,
        "sd_accept_rate_decode_gamma5": of_five / DECODE_GAMMA,
        "sd_consecutive_gamma5": of_five,
        "sd_gamma_decode": DECODE_GAMMA,
    }


def _position_rows(cosine: Tensor, mask: Tensor, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    rows = []
    for position in range(mask.shape[1]):
        column = cosine[mask[:, position], position]
        if not column.numel():
            continue
        summary = _summary(column)
        row: dict[str, Any] = {"position": position, "mean": summary["mean"], "std": summary["std"]}
        row["num_samples"] = column.numel()
        for threshold in thresholds:
            row[f"accept_{_percent(threshold)}"] = _share(column > threshold)
        rows.append(row)
    return rows


def _share(accepted: Tensor) -> float:
    return accepted.double().mean().item()


def _percent(threshold: float) -> str:
    return f"{threshold * 100:g}"
