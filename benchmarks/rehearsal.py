"""Is a rehearsal right? Its memory beside runs that were measured, its bounds beside times that were recorded.

    egptlib random-pair --out WIDE
    python -m benchmarks.rehearsal memory WIDE/pair.toml
    python -m benchmarks.rehearsal recorded FOLDER

`memory` runs both models of a random pair as wide as the 7B ones on the CPU and lets torch's profiler say what was
alive at most in each stage; asked: within 5 % of what was rehearsed. The copies that small models make of their weights
are left out of both, and so is bitsandbytes' AVX-512 layout: 7B models on a card have neither. `recorded` sets the
earlier runs on an RTX 4090 (NF4, one event image) beside the bounds; asked: no bound above the least time.
"""

import statistics
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from egptlib.models import Pair, load_pair, peak_bytes, stored_bytes
from egptlib.rehearsal import CARDS, Bench, Card, Rehearsal, noise_scene, rehearse

SIZES = (1, 6)
STAGES = ("vision", "prefill", "read 6")


def on_plain_weights(pair: Pair) -> Pair:
    """Without the layout that bitsandbytes lays weights out in anew on CPUs with AVX-512 for bfloat16."""
    for model in (pair.drafter, pair.target):
        for layer in model.module.modules():
            if hasattr(layer, "support_avx512bf16_for_cpu"):
                layer.support_avx512bf16_for_cpu = False
    return pair


def measured(pair: Pair) -> dict[str, int]:
    """Most bytes alive in each stage, weights of both models and what earlier stages left included.

    Pictures as they are preprocessed lie on the host, beside a card's memory: they are counted by neither.
    """
    alive = stored_bytes(pair.drafter.module) + stored_bytes(pair.target.module)
    most = {}
    for side in ("drafter", "target"):
        bench = Bench(getattr(pair, side), noise_scene())
        for name, job in bench.stages(SIZES).items():
            most[f"{side} {name}"] = alive + peak_bytes(job, bench.model.device)
            if name == "vision":
                alive += bench.embeds.nbytes + bench.inputs.visual.nbytes
            if name == "prefill":
                cache: Any = bench.state.cache
                rooms = (
                    [cache.buffer] if hasattr(cache, "buffer") else [x for layer in cache.layers for x in layer._room]
                )
                alive += sum(room.nbytes for room in rooms)
    return most


def memory(path: str) -> None:
    print("| precision | stage | measured MiB | rehearsed MiB | off |\n| --- | --- | --- | --- | --- |")
    for quantization in (None, "nf4"):
        with patch("egptlib.models._lean.COPY_LIMIT", 0):
            pair = on_plain_weights(load_pair(path, quantization=quantization))
            with torch.no_grad():
                there = measured(pair)
            del pair
            found = rehearse(path, sizes=SIZES, device="cpu", quantization=quantization)
        for refusal in found.refusals:
            print(refusal)
        for side in ("drafter", "target"):
            for stage in STAGES:
                real, ours = there[f"{side} {stage}"], found.stages[f"{side} {stage}"]["cpu"].peak
                print(
                    f"| {quantization or 'bfloat16'} | {side} {stage} | {real / 2**20:,.1f} | {ours / 2**20:,.1f} "
                    f"| {ours / real - 1:+.2%} |"
                )


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


def recorded(folder: str) -> None:
    from egptlib.recorded import open_recorded

    files = [*Path(folder).glob("five_stage_seq2s*.json"), *Path(folder).glob("sd_eval*.json")]
    rows = [row for file in sorted(files) for row in open_recorded(file).rows]
    found = rehearse(sizes=(30,), event_images=1, device="cuda", quantization="nf4")
    print("| stage | times | least, ms | median, ms | bound, ms | used of the card |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in used_shares(found, CARDS["RTX 4090"], rows):
        print(
            f"| {row.stage} | {row.times} | {1e3 * row.least:.1f} | {1e3 * row.median:.1f} | {1e3 * row.bound:.2f} "
            f"| {row.share:.0%} |"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"memory": memory, "recorded": recorded}[sys.argv[1]](sys.argv[2])
