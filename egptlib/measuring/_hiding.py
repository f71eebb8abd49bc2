"""What prefill hiding gives: answers with overlap, in sequence and plainly; what two models at once cost each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from egptlib._clock import READING, timed
from egptlib.decoding import ConcurrentDrafter, Generation, hidden_prefill_generate
from egptlib.measuring._methods import plain_loop, steady
from egptlib.models import Model


@dataclass(frozen=True)
class HidingRun:
    """One question, answered with overlap and in sequence; all times in seconds, medians over repeats.

    Attributes:
        scene, question: which.
        plain: our own plain loop on the target alone (measured).
        overlapped: measured with overlap, whole call.
        in_sequence: the same run, drafting as many free tokens, one model after the other (measured).
        on_paper: computed from the run in sequence: max(target's prefill, drafter's work before it) and the rest.
        free_tokens, free_accepted: drafted while the target read its prompt, and kept.
        free_on_paper: how many the window would hold if both models ran undisturbed.
        target_alone, target_beside: the target's preprocess, vision and prefill without and with the drafter running.
        drafter_alone, drafter_beside: the drafter's stages and drafting up to the free tokens, the same way.
        identical: all token ids of all repeats equal the plain loop's.
        generation: one of the overlapped runs.
    """

    scene: str
    question: str
    plain: float
    overlapped: float
    in_sequence: float
    on_paper: float
    free_tokens: int
    free_accepted: int
    free_on_paper: int
    target_alone: float
    target_beside: float
    drafter_alone: float
    drafter_beside: float
    identical: bool
    generation: Generation


@dataclass(frozen=True)
class Contention:
    """Each model's time while the other runs over its time alone: ratios of sums over all runs."""

    target: float
    drafter: float


def contention(runs: Sequence[HidingRun]) -> Contention:
    """What the two models cost each other.

    Raises:
        ValueError: no runs.
    """
    if not runs:
        raise ValueError("contention: expected at least one run, found none")
    return Contention(
        sum(r.target_beside for r in runs) / sum(r.target_alone for r in runs),
        sum(r.drafter_beside for r in runs) / sum(r.drafter_alone for r in runs),
    )


def compare_prefill_hiding(
    target: Model,
    drafter: ConcurrentDrafter,
    prompts: Iterable[tuple[Any, str]],
    *,
    repeats: int = 3,
    warm_ups: int = 3,
    max_free_tokens: int = 32,
    gamma: int = 5,
    max_new_tokens: int = 50,
) -> list[HidingRun]:
    """Answer each prompt plainly, with overlap and in sequence, interleaved, and compute the overlap on paper.

    Args:
        prompts: scene and question.
        repeats: of each of the three at most, one after the other, until their times are `steady`; the median counts.
        warm_ups: rounds on the first prompt that are thrown away.
    """
    options: dict[str, Any] = {"gamma": gamma, "max_new_tokens": max_new_tokens}
    plain, runs = plain_loop(target, max_new_tokens), list[HidingRun]()
    for i, (scene, question) in enumerate(prompts):
        trials = list[Trial]()
        hide = partial(hidden_prefill_generate, target, drafter, scene, question, **options)
        most = repeats + (warm_ups if i == 0 else 0)
        while len(trials) < most and not all(steady(seconds) for seconds in _clocks(trials[most - repeats :])):
            own = timed(partial(plain, scene, question))
            beside = timed(partial(hide, max_free_tokens=max_free_tokens))
            alone = timed(partial(hide, overlap=False, max_free_tokens=_free_tokens(beside[1])))
            trials.append(Trial(*own, *beside, *alone))
        runs.append(_summary(scene.id, question, trials[most - repeats :]))
    return runs


def _clocks(trials: Sequence[Trial]) -> list[list[float]]:
    """The seconds of each of the three ways."""
    taken = [(trial.plain_seconds, trial.overlapped_seconds, trial.in_sequence_seconds) for trial in trials]
    return [list(way) for way in zip(*taken)] or [[]]


class Trial(NamedTuple):
    """One prompt answered three ways: seconds of the whole call, and what came out."""

    plain_seconds: float
    plain: list[int]
    overlapped_seconds: float
    overlapped: Generation
    in_sequence_seconds: float
    in_sequence: Generation


def _summary(scene: str, question: str, trials: Sequence[Trial]) -> HidingRun:
    """Medians over the trials of one prompt; counts are those of the trial with the median overlapped time."""
    middle = sorted(trials, key=lambda trial: trial.overlapped_seconds)[len(trials) // 2]
    beside, alone = middle.overlapped, middle.in_sequence
    free = _free_tokens(beside)
    drafter_alone, target_alone = drafter_ahead(alone), target_reading(alone)
    step = _seconds(alone, "drafter", ("draft",), free=True) / free if free else 0.0
    window = target_alone - (drafter_alone - step * free)
    return HidingRun(
        scene=scene,
        question=question,
        plain=median(trial.plain_seconds for trial in trials),
        overlapped=median(trial.overlapped_seconds for trial in trials),
        in_sequence=median(trial.in_sequence_seconds for trial in trials),
        on_paper=median(
            t.in_sequence_seconds - min(drafter_ahead(t.in_sequence), target_reading(t.in_sequence)) for t in trials
        ),
        free_tokens=free,
        free_accepted=beside.rounds[0].accepted if free and beside.rounds else 0,
        free_on_paper=max(0, int(window / step)) if step else 0,
        target_alone=target_alone,
        target_beside=target_reading(beside),
        drafter_alone=drafter_alone,
        drafter_beside=drafter_ahead(beside),
        identical=all(g.token_ids.tolist() == t.plain for t in trials for g in (t.overlapped, t.in_sequence)),
        generation=beside,
    )


def target_reading(generation: Generation) -> float:
    """Seconds of the target's preprocessing, vision and prefill."""
    return _seconds(generation, "target", READING)


def drafter_ahead(generation: Generation) -> float:
    """Seconds the drafter worked before the loop: its stages, and drafting the free tokens."""
    return _seconds(generation, "drafter", READING) + _seconds(generation, "drafter", ("draft",), free=True)


def _free_tokens(generation: Generation) -> int:
    first = next((e for e in generation.events if e.stage == "verify"), None)
    return int(first.info.get("free", 0)) if first is not None else 0


def _seconds(generation: Generation, lane: str, stages: tuple[str, ...], free: bool = False) -> float:
    """Time of a lane's stages; with `free` only what started before the first verification."""
    first = min((e.start for e in generation.events if e.stage in ("verify", "step")), default=float("inf"))
    return sum(
        e.seconds for e in generation.events if e.lane == lane and e.stage in stages and (not free or e.start < first)
    )
