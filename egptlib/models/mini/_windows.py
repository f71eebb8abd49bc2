"""Windows that teach the target: each of a street of its own, drawn without events and files in a tenth of a second.

A window of `streets` costs ten times as much (events, PNG, H.264), and three of them share a street. What is small,
such as a pedestrian of 4 x 16 pixels, is learned from many streets, not from many looks at a few.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from egptlib._paths import atomic_write
from egptlib.models.mini._data import QuestionsAnswers, preprocessor, read_pairs, slot_labels
from egptlib.models.mini._patches import FRAME_TIMES, GRID, patch_labels
from egptlib.models.mini._sizes import TOWER
from egptlib.scenes.streets import (
    FIRST_FREE_SEED,
    SEQUENCE_SECONDS,
    WINDOW_SECONDS,
    StreetRenderer,
    answers,
    facts_from,
    sample_world,
    slots,
)

_STARTS = (0.0, 0.5, 1.0)  # seconds into a sequence: where the windows of `streets` start
_IN_A_FILE = 500


@dataclass(frozen=True)
class Windows:
    """What the target's vision tower and language model learn from.

    Attributes:
        frames: uint8 [window, 8, S, S, 3], resized as the target's preprocessor does.
        labels: int64 [window, slot], an index into `slot_values`, or -1.
        patches: uint8 [window, 8, patch, field], what each patch shows (see `_patches`).
        questions_answers: per window the ten questions with their answers.
    """

    frames: Tensor
    labels: Tensor
    patches: Tensor
    questions_answers: QuestionsAnswers

    def __len__(self) -> int:
        return len(self.labels)


def load_windows(count: int, cache: str | Path) -> Windows:
    """The first `count` windows; drawn where they are not in `cache`, 500 a file, so that a stopped run goes on."""
    key = hashlib.sha256(json.dumps([TOWER["image_size"], GRID, FRAME_TIMES]).encode()).hexdigest()[:16]
    firsts = range(0, count, _IN_A_FILE)
    files = [Path(cache) / f"windows_{key}_{first:06d}.npz" for first in firsts]
    with joblib.Parallel(n_jobs=2, return_as="generator") as parallel:
        for first, file in tqdm(zip(firsts, files, strict=True), "windows", len(files), unit="file", disable=None):
            if file.exists():
                continue
            drawn = list(parallel(joblib.delayed(_numbered)(i) for i in range(first, first + _IN_A_FILE)))
            with atomic_write(file) as partial:
                columns: dict[str, Any] = {name: np.stack([window[name] for window in drawn]) for name in drawn[0]}
                np.savez(partial, **columns)
    stored = [np.load(file) for file in files]

    def column(name: str) -> np.ndarray:
        return np.concatenate([part[name] for part in stored])[:count]

    return Windows(
        frames=torch.from_numpy(column("frames")),
        labels=torch.from_numpy(column("labels")),
        patches=torch.from_numpy(column("patches")),
        questions_answers=read_pairs(column("questions_answers")),
    )


def _numbered(index: int) -> dict[str, np.ndarray]:
    return draw_window(FIRST_FREE_SEED + index, _STARTS[index % len(_STARTS)])


def draw_window(seed: int, start: float, seconds: float = SEQUENCE_SECONDS) -> dict[str, np.ndarray]:
    """One window of a street.

    Args:
        seed: of the street.
        start: of the window, in seconds since the street's first frame.
        seconds: how long the street's sequence would be.

    Returns:
        One row of each column of `Windows`; questions and answers as JSON.
    """
    cv2.setNumThreads(1)
    renderer, resized = StreetRenderer(sample_world(seed, seconds)), preprocessor().resized
    times = [start + time for time in FRAME_TIMES]
    facts = facts_from(renderer, start, start + WINDOW_SECONDS)
    return {
        "frames": np.stack([resized(renderer.frame(time)) for time in times]),
        "labels": np.array(slot_labels(slots(facts))),
        "patches": np.stack([patch_labels(renderer.things_at(time), renderer.world.things) for time in times]),
        "questions_answers": np.array(json.dumps([(pair["question"], pair["answer"]) for pair in answers(facts)])),
    }
