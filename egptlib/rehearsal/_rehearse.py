"""A rehearsal: both models loaded hollow, every stage run and counted, what is refused noted with its line."""

from __future__ import annotations

import gc
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from egptlib.metrics import Costs
from egptlib.models import Pair, PairSettings, load_pair, make_random_pair, pair_settings
from egptlib.rehearsal._cards import LAUNCH, Card
from egptlib.rehearsal._counting import HERE, ROOT, Count, Tally
from egptlib.rehearsal._device import NAME, pretended_devices
from egptlib.rehearsal._hollow import hollow_checkpoints
from egptlib.rehearsal._stages import Bench, methods, noise_scene, numbers_of
from egptlib.rehearsal._training import lessons

PUBLISHED = "eventgpt-videollava"
SIZES = (1, 2, 3, 4, 5, 6, 9, 17, 33)  # tokens of the passes behind the prompt
GIB = 2**30


@dataclass(frozen=True)
class Refusal:
    """What a device would not do."""

    stage: str
    reason: str
    line: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason} ({self.line})"


@dataclass(frozen=True)
class Rehearsal:
    """What was counted.

    Attributes:
        pair: name, precision and devices.
        stages: name ("drafter vision", "target read 6", a method's) -> device -> counts.
        refusals: in the order in which they came.
        length: positions of the target's prompt.
    """

    pair: dict[str, str]
    stages: dict[str, dict[str, Count]]
    refusals: list[Refusal] = field(default_factory=list)
    length: int = 0

    @property
    def peak(self) -> dict[str, Count]:
        """Device -> the stage's counts in which most was alive on it, of the whole run."""
        devices = dict.fromkeys(device for counts in self.stages.values() for device in counts)
        return {
            device: max((counts[device] for counts in self.stages.values() if device in counts), key=lambda c: c.peak)
            for device in devices
        }

    def on(self, stage: str) -> Count:
        """The counts of a stage where most was done."""
        return max(
            self.stages[stage].values(), key=lambda count: (sum(count.flops.values()), count.moved), default=Count()
        )

    def refused_by(self, card: Card) -> list[Refusal]:
        """Refusals of any card, and the first stage on each device that this one has no room for."""
        full = {}
        for stage, counts in self.stages.items():
            for device, count in counts.items():
                if device != "cpu" and count.peak > card.memory and device not in full:
                    reason = f"needs {count.peak / GIB:.2f} GiB of {device}, {card.name} has {card.memory / GIB:.2f}"
                    full[device] = Refusal(stage, reason, count.at)
        return [*self.refusals, *full.values()]

    def costs(self, card: Card) -> Costs:
        """The least that a card can cost, for `CostModel` [estimated bound]; preprocessing is the host's, left out.

        Raises:
            ValueError: a stage that it takes was refused.
        """
        wanted = [f"{side} {stage}" for side in ("drafter", "target") for stage in ("vision", "prefill", "read 1")]
        for stage in wanted:
            if not self.stages.get(stage) or any(refusal.stage == stage for refusal in self.refusals):
                raise ValueError(f"rehearsal: {stage}: refused, so that there is no bound")
        least = {stage: card.bound(self.on(stage)) for stage in self.stages}
        passes = {int(name.split()[-1]): seconds for name, seconds in least.items() if name.startswith("target read")}
        return Costs(
            target_step=least["target read 1"],
            drafter_step=least["drafter read 1"],
            verify={tokens - 1: seconds for tokens, seconds in passes.items()},
            drafter_passes={2: least["drafter read 2"]} if "drafter read 2" in least else {},
            target_stages={stage: least[f"target {stage}"] for stage in ("vision", "prefill")},
            drafter_stages={stage: least[f"drafter {stage}"] for stage in ("vision", "prefill")},
            context_length=self.length,
            device=f"{card.name}, estimated bound",
            precision=self.pair["precision"],
            pair=self.pair["pair"],
        )

    def page(self, cards: Sequence[Card]) -> str:
        """The counts as Markdown."""
        head = ["stage", "TFLOP", "GiB moved", "launches", "waits", "peak GiB", "launching, ms"]
        head += [f"{card.name}, ms" for card in cards]
        lines = [head, ["---"] * len(head)]
        for stage, counts in self.stages.items():
            for device, count in counts.items():
                if not (count.launches or count.waits):
                    continue
                lines.append(
                    [
                        stage if len(self.peak) < 2 else f"{stage} ({device})",
                        f"{sum(count.flops.values()) / 1e12:.3f}",
                        f"{count.moved / GIB:.2f}",
                        f"{count.launches:,}",
                        f"{sum(count.waits.values()):,}",
                        f"{count.peak / GIB:.2f}",
                        f"{1e3 * LAUNCH * count.launches:.1f}",
                        *(f"{1e3 * card.bound(count):.2f}" for card in cards),
                    ]
                )
        memory = [f"- {device}: {count.peak / GIB:.2f} GiB at most ({count.at})" for device, count in self.peak.items()]
        refused = list(dict.fromkeys(str(refusal) for card in cards for refusal in self.refused_by(card)))
        return "\n".join(
            [
                *(f"- {name}: {value}" for name, value in self.pair.items()),
                *memory,
                *(f"- refused: {refusal}" for refusal in refused or ["nothing"]),
                "",
                *("| " + " | ".join(line) + " |" for line in lines),
                "",
                "Milliseconds are the least that any implementation takes on the card [estimated bound]; launching is "
                f"what a host needs that launches each kernel by itself, {1e6 * LAUNCH:.0f} microseconds one.",
            ]
        )


def rehearse(
    pair: str | Path | PairSettings = PUBLISHED,
    *,
    sizes: Iterable[int] = SIZES,
    event_images: int = 5,
    every_method: bool = False,
    layers: int = 32,
    **changes: Any,
) -> Rehearsal:
    """Run a pair's whole pipeline without weights and without its devices.

    Args:
        pair: "eventgpt-videollava" is the published pair, of which nothing need be there; else as in `pair_settings`,
            of whose checkpoints the configs and tokenizers are read.
        sizes: tokens of the passes behind the prompt that are counted; 1 is added.
        event_images: that the drafter sees, 1 to 8.
        every_method: also rehearse every drafter, adapter, rule and mode, for what is refused, and a step of training
            each level.
        layers: of the published pair.
        changes: fields of `PairSettings`. The devices need not be here: "cuda", "cuda:1".

    Raises:
        ValueError: an unfit pair; a device that is neither CPU nor CUDA.
    """
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        if pair == PUBLISHED:
            settings = pair_settings(make_random_pair(folder, layers, weights=False), name=PUBLISHED, **changes)
        else:
            settings = pair_settings(pair, **changes)
        refusals: list[Refusal] = []

        def attempt(name: str, job: Callable[[], Any], **given: Any) -> bool:
            with tally.stage(name, **given):
                try:
                    job()
                except Exception as error:  # whatever the program does not survive on such a device
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    refusals.append(Refusal(name, _named(reason), _line(error)))
                return not refusals or refusals[-1].stage != name

        with torch.no_grad(), pretended_devices(tally):
            with tally.stage("load"), hollow_checkpoints():
                opened = load_pair(_pretended(settings))
            length = _attempt_all(opened, noise_scene(event_images), sizes, every_method, attempt)
            told, taught = _described(opened, settings), lessons(opened, length) if every_method else {}
            del opened  # notebook 03 has no models either
            gc.collect()
            for name, job in taught.items():
                attempt(name, job)
    return Rehearsal(told, _seen(tally.stages, settings), refusals, length)


def _attempt_all(pair: Pair, scene: Any, sizes: Iterable[int], every_method: bool, attempt: Callable[..., Any]) -> int:
    benches = {"drafter": Bench(pair.drafter, scene), "target": Bench(pair.target, scene)}
    for side, bench in benches.items():
        for stage, job in bench.stages(sorted({1, *sizes})).items():
            if not attempt(f"{side} {stage}", job):
                break  # the next one needs what it gives
    length = benches["target"].state.length if benches["target"].state is not None else 0
    for name, job in methods(pair, scene).items() if every_method else ():
        attempt(name, job, **numbers_of(name, length))
    return length


def _pretended(settings: PairSettings) -> PairSettings:
    def place(name: str | None) -> str | None:
        device = torch.device(name) if name is not None else None
        if device is not None and device.type not in ("cpu", "cuda"):
            raise ValueError(f"device: expected cpu, cuda or cuda:1 to rehearse on, found {name!r}")
        return name if device is None or device.type == "cpu" else f"{NAME}:{device.index or 0}"

    return replace(settings, device=place(settings.device) or "cpu", target_device=place(settings.target_device))


def _named(text: str) -> str:
    """With the devices' own name."""
    return text.replace(NAME, "cuda")


def _seen(stages: dict[str, dict[str, Count]], settings: PairSettings) -> dict[str, dict[str, Count]]:
    """The devices that models are on, by their own names."""
    places = {str(torch.device(name).type) for name in (settings.device, settings.target_device) if name is not None}
    named = {stage: {_named(device): count for device, count in counts.items()} for stage, counts in stages.items()}
    return {
        stage: {d: count for d, count in counts.items() if d.split(":")[0] in places} for stage, counts in named.items()
    }


def _described(pair: Pair, settings: PairSettings) -> dict[str, str]:
    return {
        "pair": pair.name,
        "precision": pair.target.precision,
        "drafter": f"{pair.drafter.name} on {settings.device}",
        "target": f"{pair.target.name} on {settings.target_device or settings.device}",
    }


def _line(error: BaseException) -> str:
    """The innermost line of this package, but for the rehearsal's own, that an error came through."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(ROOT)]
    ours = [f for f in ours if not f.filename.startswith(HERE)]
    return f"egptlib{ours[-1].filename[len(ROOT) :]}:{ours[-1].lineno}" if ours else "?"
