"""What an extraction will cost, before it starts: samples, bytes, hours, from a short trial on this machine."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egptlib.hidden_states._extract import duration, extract, log
from egptlib.hidden_states._failures import Failures, first_failure
from egptlib.scenes import evenly, none_readable

if TYPE_CHECKING:
    from egptlib.models import Pair
    from egptlib.scenes import Scene


@dataclass(frozen=True)
class ExtractionPlan:
    """What to expect.

    Attributes:
        num_samples: scenes times questions.
        num_bytes: of the finished folder, from the lengths of the trial's answers; heads included.
        seconds: for all of it, one process, from the trial's rate.
        num_trial: samples of the trial.
    """

    num_samples: int
    num_bytes: float
    seconds: float
    num_trial: int

    def __str__(self) -> str:
        size = f"{self.num_bytes / 1e9:.3g} GB" if self.num_bytes >= 1e9 else f"{self.num_bytes / 1e6:.3g} MB"
        return (
            f"{self.num_samples:,} samples, {size}, {duration(self.seconds)} in one process "
            f"(from {self.num_trial} samples tried here)"
        )


def plan_extraction(
    pair: Pair, scenes: Sequence[Scene], num_questions: int = 10, trial_scenes: int = 6, **options: Any
) -> ExtractionPlan:
    """Extract a few scenes, evenly taken, into a folder that is thrown away, and project.

    The first scene that can be read warms up and is not counted. What fails is set aside, as in the extraction itself,
    and told in a warning.

    Args:
        pair, scenes: as for `extract`.
        num_questions: per scene.
        trial_scenes: scenes of the counted trial.
        options: what `extract` will be given (path, max_new_tokens, dtype, layers, batch_size).

    Raises:
        ValueError: no scene, or none of those tried could be read.
    """
    if not len(scenes):
        raise ValueError("scenes: expected at least one")
    tried = _Some(scenes, evenly(len(scenes), trial_scenes))
    options |= {"num_questions": num_questions, "max_failures_in_row": sys.maxsize}
    with tempfile.TemporaryDirectory(prefix="egptlib-plan-") as place, _untold():
        warm, folder = Path(place, "warm"), Path(place, "trial")
        if not any(extract(pair, tried[i : i + 1], warm, **options).num_extracted for i in range(len(tried))):
            raise ValueError(none_readable(scenes, first_failure(warm)))
        start = time.perf_counter()
        done = extract(pair, tried, folder, **options)
        seconds = time.perf_counter() - start
        for line in Failures(folder):
            log.warning("set aside: %s", line)
        chunks = sum(path.stat().st_size for path in folder.glob("chunks/*"))
        heads = sum(path.stat().st_size for path in folder.glob("*_head.safetensors"))
    total = len(scenes) * min(num_questions, getattr(scenes, "num_questions", num_questions))
    share = total / done.num_extracted
    return ExtractionPlan(total, chunks * share + heads, seconds * share, done.num_extracted)


class _Some(Sequence["Scene"]):
    """Some of many scenes, each read when `extract` reads it, which sets a damaged one aside."""

    def __init__(self, scenes: Sequence[Scene], numbers: Sequence[int]) -> None:
        self.scenes, self.numbers = scenes, numbers
        self.ids = [scenes.ids[i] for i in numbers] if hasattr(scenes, "ids") else ()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: Any) -> Any:
        return _Some(self.scenes, self.numbers[i]) if isinstance(i, slice) else self.scenes[self.numbers[i]]


@contextmanager
def _untold() -> Iterator[None]:
    """What a trial extracts into a folder of the moment is nobody's result: no line about it, warnings alone."""
    before = log.level
    log.setLevel(WARNING)
    try:
        yield
    finally:
        log.setLevel(before)
