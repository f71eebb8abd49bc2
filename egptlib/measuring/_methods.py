"""Several ways of decoding on the same prompts: whole calls timed in turn, token ids compared with a baseline's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch

from egptlib._clock import timed
from egptlib._terminal import progress
from egptlib.decoding import Draft, Drafter, Generation, KeepingDrafter, Recorder, Sampler, Stop
from egptlib.metrics import bootstrap
from egptlib.models import Model

Method = Callable[[Any, str], Generation | list[int]]
"""Scene and question -> the answer, or its token ids alone where nothing else is known about it."""


@dataclass
class MethodRuns:
    """What one method did; one entry per prompt.

    Attributes:
        seconds: of the whole call, median over repeats.
        token_ids: the answer; of the last repeat.
        identical: whether the token ids of all repeats equal the baseline's first.
        generations: of the last repeat; empty for methods that return token ids alone.
    """

    seconds: list[float] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)
    identical: list[bool] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)


@dataclass(frozen=True)
class Speed:
    """A method against the baseline.

    Attributes:
        ratio_of_sums: all of the baseline's seconds over all of the method's; above 1 is faster.
        low, high: 95 % bootstrap interval of it over prompts, or over groups of them.
        mean_of_ratios: over prompts.
        slower: share of prompts on which the method took longer.
        identical: share of prompts with the baseline's token ids in every repeat.
        tokens: of all answers.
        seconds: of all answers.
    """

    ratio_of_sums: float
    low: float
    high: float
    mean_of_ratios: float
    slower: float
    identical: float
    tokens: int
    seconds: float


def plain_loop(target: Model, max_new_tokens: int) -> Callable[[Any, str], list[int]]:
    """Our own greedy loop of the target alone: no drafter, no general machinery around it."""

    def call(scene: Any, question: str) -> list[int]:
        return target.decode_greedy(target.start(scene, question), max_new_tokens)[0].tolist()

    return call


def with_threads(method: Method, count: int) -> Method:
    """The same, with so many torch threads: a method that leaves cores idle is also shown with them."""

    def call(scene: Any, question: str) -> Generation | list[int]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return method(scene, question)
        finally:
            torch.set_num_threads(before)

    return call


class BlankedDrafter:
    """A drafter that is shown white event pictures: its head start and its language stay, its sense does not."""

    def __init__(self, drafter: Drafter):
        self.drafter, self.name, self.device = drafter, f"{drafter.name}, events blanked", drafter.device
        self._kept: tuple[Any, Any] = (None, None)

    def keep(self, scene: Any) -> None:
        if isinstance(self.drafter, KeepingDrafter) and scene is not self._kept[0]:
            self._kept = (scene, None if scene is None else _blanked(scene))
            self.drafter.keep(self._kept[1])

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        own, white = self._kept
        self.drafter.start(white if own is scene else _blanked(scene), question, recorder)

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        return self.drafter.propose(answer, count, sampler, stop)


def _blanked(scene: Any) -> Any:
    return replace(scene, event_images=[np.full_like(image, 255) for image in scene.event_images])


def run_methods(
    methods: Mapping[str, Method], prompts: Sequence[tuple[Any, str]], *, repeats: int = 2, warm_ups: int = 3
) -> dict[str, MethodRuns]:
    """Run all methods on all prompts, taking turns prompt by prompt, so that a busy moment hits no one method alone.

    Args:
        methods: name -> method; the first is the baseline whose token ids the others are compared with.
        prompts: scene and question.
        repeats: of each method on each prompt.
        warm_ups: calls of each method that are thrown away.

    Raises:
        ValueError: no method, no prompt or no repeat.
    """
    if not methods or not prompts or repeats < 1:
        raise ValueError(
            "methods: expected at least one method, prompt and repeat, "
            f"found {len(methods)}, {len(prompts)} and {repeats}"
        )
    for method in methods.values():
        for i in range(warm_ups):
            method(*prompts[i % len(prompts)])
    runs = {name: MethodRuns() for name in methods}
    for prompt in progress(prompts, desc="methods by the clock", unit="prompt"):
        trials = {name: list[tuple[float, Generation | list[int]]]() for name in methods}
        for _ in range(repeats):
            for name, method in methods.items():
                trials[name].append(timed(partial(method, *prompt)))
        own = token_ids_of(trials[next(iter(methods))][0][1])
        for name, row in runs.items():
            last = trials[name][-1][1]
            row.seconds.append(statistics.median(seconds for seconds, _ in trials[name]))
            row.token_ids.append(token_ids_of(last))
            row.identical.append(all(token_ids_of(answer) == own for _, answer in trials[name]))
            if isinstance(last, Generation):
                row.generations.append(last)
    return runs


def steady(seconds: Sequence[float], within: float = 0.05) -> bool:
    """Whether two repeats or more lie so near to one another that a further one would say the same."""
    return len(seconds) > 1 and max(seconds) <= (1 + within) * min(seconds)


def run_sessions(
    answer: Callable[[Any, Sequence[str]], Sequence[Generation]],
    prompts: Sequence[tuple[Any, str]],
    baseline: MethodRuns,
    *,
    repeats: int = 2,
    warm_ups: int = 1,
) -> MethodRuns:
    """Run a way of answering a scene's questions at once; each prompt is charged an equal share of its scene's time.

    Args:
        answer: scene and questions -> an answer to each.
        prompts: scene and question, those of one scene side by side.
        baseline: of the same prompts; its token ids are compared with.
        repeats, warm_ups: as in `run_methods`, of whole scenes.
    """
    scenes = [list(group) for _, group in groupby(prompts, key=lambda prompt: id(prompt[0]))]
    for i in range(warm_ups):
        answer(scenes[i % len(scenes)][0][0], [question for _, question in scenes[i % len(scenes)]])
    runs = MethodRuns()
    for group in scenes:
        ask = partial(answer, group[0][0], [question for _, question in group])
        trials = [timed(ask) for _ in range(repeats)]
        seconds = statistics.median(each for each, _ in trials) / len(group)
        for nth, last in enumerate(trials[-1][1]):
            own = baseline.token_ids[len(runs.token_ids)]
            runs.identical.append(all(token_ids_of(answers[nth]) == own for _, answers in trials))
            runs.seconds.append(seconds)
            runs.token_ids.append(token_ids_of(last))
            runs.generations.append(last)
    return runs


def compare_speed(runs: MethodRuns, baseline: MethodRuns, groups: Sequence[str] | None = None) -> Speed:
    """How fast a method was against the baseline, and whether it gave the same tokens.

    Both are resampled together, prompt by prompt; with `groups`, one name a prompt (its sequence, say), whole groups at
    a time, since prompts of one group are more alike than those of two.
    """
    ours, theirs = np.array(runs.seconds), np.array(baseline.seconds)
    ratio = bootstrap(np.stack([theirs, ours], axis=1), lambda sums: sums[..., 0] / sums[..., 1], groups)
    return Speed(
        ratio_of_sums=ratio.value,
        low=ratio.low,
        high=ratio.high,
        mean_of_ratios=float((theirs / ours).mean()),
        slower=float((ours > theirs).mean()),
        identical=float(np.mean(runs.identical)),
        tokens=sum(map(len, runs.token_ids)),
        seconds=float(ours.sum()),
    )


def token_ids_of(answer: Generation | list[int]) -> list[int]:
    """The token ids of what a method gave."""
    return answer if isinstance(answer, list) else answer.token_ids.tolist()
