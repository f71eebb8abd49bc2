"""What each patch of a picture shows: dense ground truth that teaches a small tower to see in minutes."""

import hashlib
import json
from pathlib import Path

import cv2
import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from egptlib._paths import atomic_write
from egptlib.models.mini._sizes import EVENT_VIEWS, NUM_FRAMES, TOWER
from egptlib.scenes import SceneFolder, frame_indices
from egptlib.scenes.streets import COLORS, KINDS, MOTIONS, VIDEO_FPS, street_at

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
