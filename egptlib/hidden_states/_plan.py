"""What an extraction will cost, before it starts: samples, bytes, hours, from a short trial on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egptlib.hidden_states._extract import duration, extract, log
from egptlib.hidden_states._reader import HiddenStates
from egptlib.scenes import evenly

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

    The first batch warms up and is not counted.

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
    tried = [scenes[i] for i in evenly(len(scenes), trial_scenes)]
    with tempfile.TemporaryDirectory(prefix="egptlib-plan-") as folder, _untold():
        extract(pair, tried[:1], Path(folder, "warm"), num_questions=num_questions, **options)
        start = time.perf_counter()
        done = extract(pair, tried, Path(folder, "trial"), num_questions=num_questions, **options)
        seconds = time.perf_counter() - start
        if not done.num_extracted:
            raise ValueError(f"none of {len(tried)} scenes could be read: see `egptlib check` of the dataset")
        trial = HiddenStates.open(Path(folder, "trial"))
        chunks = sum(path.stat().st_size for path in trial.folder.glob("chunks/*"))
        heads = sum(path.stat().st_size for path in trial.folder.glob("*_head.safetensors"))
    total = len(scenes) * min(num_questions, getattr(scenes, "num_questions", num_questions))
    share = total / done.num_extracted
    return ExtractionPlan(total, chunks * share + heads, seconds * share, done.num_extracted)


@contextmanager
def _untold() -> Iterator[None]:
    """What a trial extracts into a folder of the moment is nobody's result: no line about it, warnings alone."""
    before = log.level
    log.setLevel(WARNING)
    try:
        yield
    finally:
        log.setLevel(before)
