"""One row per level: trained, judged on sequences it has not seen, timed; and whether cosine orders the rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch

from egptlib.adapters._build import create_adapter
from egptlib.adapters._files import load_adapter
from egptlib.adapters._fit import Fit, FitSettings
from egptlib.adapters._judge import Judgement, judge, measure_latency
from egptlib.adapters._lora import DrafterLora, LoraSettings
from egptlib.adapters._lora_train import judge_lora, train_lora
from egptlib.adapters._settings import LEVELS
from egptlib.adapters._train import LossSettings, train_adapter
from egptlib.hidden_states import HiddenStates

if TYPE_CHECKING:
    from egptlib.models import Pair
    from egptlib.scenes import Scene

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{level: (level, {}) for level in LEVELS},
    "L4-looks-ahead": ("L4", {"causal": False}),
    "L5-reads-last": ("L5", {"reads_last": True}),
    "L6": ("L6", {"head": "target"}),
    "L6-own-head": ("L6", {"head": "own"}),
}
"""What may stand in a table: level and settings by name. `L4-looks-ahead` is no drafter (findings C19)."""


def find_variant(name: str) -> tuple[str, dict[str, Any]]:
    """Level and settings of a name of `VARIANTS`, or of a level that was registered since.

    Raises:
        ValueError: it is neither.
    """
    if name in LEVELS:
        return name, {}
    if name not in VARIANTS:
        known = dict.fromkeys([*VARIANTS, *LEVELS])
        raise ValueError(f"level {name!r}: expected one of {', '.join(known)}")
    return VARIANTS[name]


@dataclass(frozen=True)
class Trained:
    """A level after its training.

    Attributes:
        name: of `VARIANTS`.
        fit: the training.
        verdict: on the test samples.
        latency: seconds of one call on one answer; 0 for L6, which is merged into the drafter.
    """

    name: str
    fit: Fit
    verdict: Judgement
    latency: float

    def row(self) -> dict[str, Any]:
        """As a row of the table."""
        told = {"parameters": self.verdict.num_parameters, "ms a call": 1e3 * self.latency}
        return {"level": self.name, **self.verdict.figures(), **told, "training s": self.fit.seconds}


class LevelOptions(TypedDict, total=False):
    """What `train_level` takes by name.

    Attributes:
        loss: how to train, besides its settings.
        sizes: fields of `AdapterSettings`, beside the widths, which are those of the samples. Not for L6.
        device: of the adapter.
        pair, scenes: for L6 alone, whose drafter is changed and put back: the models, and all scenes of the
            samples by id (see `ScenesById`).
    """

    loss: LossSettings
    sizes: Mapping[str, Any]
    device: str
    pair: Pair
    scenes: Mapping[str, Scene]


def train_level(
    name: str,
    train: HiddenStates,
    test: HiddenStates,
    folder: str | os.PathLike[str],
    settings: FitSettings,
    validation: HiddenStates | None = None,
    **options: Unpack[LevelOptions],
) -> Trained:
    """Train a level (or go on where `folder` stands) and judge its best epoch on `test`.

    Args:
        name: of `VARIANTS`, or a registered level.
        train, validation, test: samples along the target's path; `validation` as for `train_adapter`.
        folder: run folder.
        settings: how to train.
        options: see `LevelOptions`.

    Raises:
        ValueError: an unknown name, or L6 without `pair` and `scenes`; or see `fit`.
    """
    level, own = find_variant(name)
    torch.manual_seed(settings.seed)
    if level == "L6":
        if not (pair := options.get("pair")) or not (scenes := options.get("scenes")):
            raise ValueError("level L6: trains on scenes with the pair's drafter; give both")
        lora = DrafterLora(pair, LoraSettings(**own))
        try:
            result = train_lora(lora, scenes, train, folder, settings, validation=validation)
            return Trained(name, result, judge_lora(lora, scenes, test, name=name), 0.0)
        finally:
            lora.detach()
    lm_head, first = train.target_head.lm_head, train[0]
    widths: dict[str, Any] = {"drafter_size": first.drafter_hidden.shape[1]}
    if first.target_layers is not None:
        widths["num_source_layers"] = first.target_layers.shape[1]
        widths["source_layers"] = train.config.get("layers", {}).get("target", ())
    device, widths = options.get("device", "cpu"), widths | dict(options.get("sizes", {})) | own
    adapter = create_adapter(level, lm_head.shape[1], **widths).to(device)
    result = train_adapter(adapter, train, folder, settings, options.get("loss"), validation=validation)
    best = load_adapter(Path(folder), device)
    return Trained(name, result, judge(best, test, lm_head, name=name), measure_latency(best, test, lm_head))


def order_agreement(rows: Sequence[Mapping[str, Any]]) -> tuple[float, int, int]:
    """Does cosine order the levels as acceptance does?

    Args:
        rows: with `cos_sim_mean` and `mean_acceptance_length`; those without a cosine are passed over.

    Returns:
        Pearson's r (NaN for fewer than three rows), in how many pairs of rows the one with the higher cosine also has
        the higher acceptance, and how many pairs there are.
    """
    points = [(row["cos_sim_mean"], row["mean_acceptance_length"]) for row in rows if "cos_sim_mean" in row]
    pairs = list(combinations(points, 2))
    alike = sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs)
    r = float(torch.corrcoef(torch.tensor(points, dtype=torch.double).T)[0, 1]) if len(points) > 2 else float("nan")
    return r, alike, len(pairs)


def tell_order(rows: Sequence[Mapping[str, Any]]) -> str:
    """One plain sentence or two: does cosine order the levels as acceptance does?

    L6 changes the drafter, whose states need not lie where the target's do: where it is among the rows, the second
    sentence tells its cosine, and what holds without it.

    Args:
        rows: as for `order_agreement`, with `level`; of levels that a drafter could use.
    """
    rows = [row for row in rows if "cos_sim_mean" in row]
    elsewhere = [row for row in rows if VARIANTS.get(row["level"], ("",))[0] == "L6"]
    text = f"Does cosine order the {len(rows)} levels as acceptance does? {_told(rows)}."
    if elsewhere and len(rows) - len(elsewhere) > 1:
        names = " and ".join(f"{row['level']} (cosine {row['cos_sim_mean']:.2f})" for row in elsewhere)
        rest = [row for row in rows if row not in elsewhere]
        text += f" Without {names}, read in a space of their own: {_told(rest)}."
    return text


def _told(rows: Sequence[Mapping[str, Any]]) -> str:
    r, alike, pairs = order_agreement(rows)
    if not pairs:
        return "there is no pair to compare"
    share = alike / pairs
    answer = "yes" if share > 0.95 else "mostly" if share >= 0.75 and not r < 0.5 else "no"
    return f"{answer}: {alike} of {pairs} pairs stand in the same order" + ("" if r != r else f", r = {r:.2f}")
