"""How much of what a card could do the recorded code did: its times beside a rehearsal's bounds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from egptlib.rehearsal._cards import Card
from egptlib.rehearsal._rehearse import Rehearsal


@dataclass(frozen=True)
class UsedShare:
    """One stage by the clock.

    Attributes:
        times: how many were recorded.
        least, median: of them, seconds.
        bound: the least that the card can do it in, seconds [estimated bound].
    """

    stage: str
    times: int
    least: float
    median: float
    bound: float

    @property
    def share(self) -> float:
        """Of the card that was used, in the median."""
        return self.bound / self.median


def used_shares(found: Rehearsal, card: Card, rows: Iterable[Mapping[str, Any]]) -> list[UsedShare]:
    """Set recorded stages beside the bounds of a rehearsal of the same pair in the same precision.

    Args:
        rows: of `open_recorded`: five-stage runs (stages and seconds a step of both models; the target's vision is in
            its prefill there), and runs with a real verification.

    Raises:
        ValueError: a verification of so many tokens was not rehearsed.
    """
    seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        drafter, target = row.get("drafter_stages", {}), row.get("target_stages", {})
        if "vision" in drafter and "vision" in target:
            seconds["drafter vision",].append(drafter["vision"])
            seconds["drafter prefill",].append(drafter["prefill"])
            seconds["target vision", "target prefill"].append(target["vision"] + target["prefill"])
        for side in ("drafter", "target"):
            if f"{side}_step_seconds" in row:
                seconds[f"{side} read 1",].append(row[f"{side}_step_seconds"])
        if "verify_seconds" in row:
            seconds[f"target read {len(row['drafter_ids'])}",].append(row["verify_seconds"])
    if missing := [stage for stages in seconds for stage in stages if stage not in found.stages]:
        raise ValueError(f"rehearsal: {missing[0]}: recorded, and not rehearsed")
    return [
        UsedShare(
            " + ".join(stages),
            len(times),
            min(times),
            statistics.median(times),
            sum(card.bound(found.on(stage)) for stage in stages),
        )
        for stages, times in seconds.items()
    ]
