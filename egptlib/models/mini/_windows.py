"""Windows that teach the target, each of a street of its own, drawn without files in a tenth of a second, and patches.

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
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from egptlib._paths import atomic_write
from egptlib.models.mini._data import QuestionsAnswers, preprocessor, read_pairs, slot_labels
from egptlib.models.mini._sizes import EVENT_VIEWS, NUM_FRAMES, TOWER
from egptlib.scenes import SceneFolder, frame_indices
from egptlib.scenes.streets import (
    COLORS,
    FIRST_FREE_SEED,
    KINDS,
    MOTIONS,
    SEQUENCE_SECONDS,
    VIDEO_FPS,
    WINDOW_SECONDS,
    StreetRenderer,
    answers,
    facts_from,
    sample_world,
    slots,
    street_at,
)

FIELDS = {"kind": len(KINDS) + 1, "color": len(COLORS) + 1, "motion": len(MOTIONS) + 1, "pedestrian": 2}
"""What is told of a patch, and how many values it has; 0 is none."""
GRID = int(TOWER["image_size"]) // int(TOWER["patch_size"])  # type: ignore[call-overload]
_VEHICLE_SHARE, _PEDESTRIAN_SHARE = 0.04, 0.01  # of a patch, from which on it shows one
FRAME_TIMES = [index / VIDEO_FPS for index in frame_indices(VIDEO_FPS, NUM_FRAMES)]
"""When the frames of a window of 1 s were taken, in seconds since its start."""


def load_event_patches(scenes: SceneFolder, cache: str | Path) -> Tensor:
    """What the event images of all scenes of `streets` show: uint8 [scene, 5, patch, field]; kept in `cache`."""
    windows = [(scene["sequence"], scene["start_us"]) for scene in scenes.metadata()]
    key = hashlib.sha256(json.dumps([windows, GRID, EVENT_VIEWS]).encode()).hexdigest()[:16]
    file = Path(cache) / f"patches_{key}.npz"
    if not file.exists():
        jobs = (joblib.delayed(_event_patches)(*window) for window in windows)
        made = joblib.Parallel(n_jobs=2, return_as="generator")(jobs)
        read = list(tqdm(made, total=len(windows), desc="patch labels", unit="scene", disable=None))
        with atomic_write(file) as partial:
            np.savez_compressed(partial, events=np.stack(read))
    with np.load(file) as stored:
        return torch.from_numpy(stored["events"])


def _event_patches(sequence: str, start_us: int) -> NDArray[np.uint8]:
    renderer, start = street_at(sequence, start_us)
    # event images share the window by count; the middle of an equal share of time is near enough
    times = [start + (i + 0.5) / EVENT_VIEWS for i in range(EVENT_VIEWS)]
    return np.stack([patch_labels(renderer.things_at(time), renderer.world.things) for time in times])


def patch_labels(things_at: NDArray[np.int16], things: list) -> NDArray[np.uint8]:
    """uint8 [patch, field] of one picture: the vehicle that fills most of a patch, and if a pedestrian is in it."""
    labels = np.zeros((GRID, GRID, len(FIELDS)), np.uint8)
    largest = np.full((GRID, GRID), _VEHICLE_SHARE, np.float32)
    for index in np.unique(things_at[things_at >= 0]):
        thing = things[index]
        if thing.kind not in KINDS and thing.kind != "pedestrian":
            continue
        share = cv2.resize((things_at == index).astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
        if thing.kind == "pedestrian":
            labels[share > _PEDESTRIAN_SHARE, 3] = 1
            continue
        here = share > largest
        largest[here] = share[here]
        values = (list(KINDS).index(thing.kind), list(COLORS).index(thing.color_name), MOTIONS.index(thing.motion))
        labels[here, :3] = np.array(values) + 1
    return labels.reshape(GRID * GRID, len(FIELDS))


_STARTS = (0.0, 0.5, 1.0)  # seconds into a sequence: where the windows of `streets` start
_IN_A_FILE = 500


@dataclass(frozen=True)
class Windows:
    """What the target's vision tower and language model learn from.

    Attributes:
        frames: uint8 [window, 8, S, S, 3], resized as the target's preprocessor does.
        labels: int64 [window, slot], an index into `slot_values`, or -1.
        patches: uint8 [window, 8, patch, field], what each patch shows (see `patch_labels`).
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
