"""`streets` as the tensors that train the mini pair: small pictures, slot labels, questions with answers."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from egptlib._paths import atomic_write
from egptlib.models._preprocess import Preprocessor
from egptlib.models.mini._sizes import EVENT_VIEWS, NUM_FRAMES, TOWER
from egptlib.scenes import INDEX_NAME, SLOTS, SceneFolder, open_scenes, slot_values

QuestionsAnswers = list[list[tuple[str, str]]]
"""Per scene the ten questions with their answers."""
NO_VALUE = -1  # label of a slot that a scene does not have, ignored by the loss


@dataclass(frozen=True)
class MiniData:
    """All scenes of one split.

    Attributes:
        events: uint8 [scene, 5, S, S, 3] event images, resized as the drafter's preprocessor does.
        frames: uint8 [scene, 8, S, S, 3] video frames.
        labels: int64 [scene, slot], an index into `slot_values`, or -1.
        questions_answers: per scene the ten questions with their answers.
        sequences: per scene.
    """

    events: Tensor
    frames: Tensor
    labels: Tensor
    questions_answers: QuestionsAnswers
    sequences: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def open_mini_scenes(split: str, num_sequences: int) -> SceneFolder:
    """The first sequences of a split of `streets`, as the mini pair sees them; made where they are missing."""
    return open_scenes("streets", split, event_views=EVENT_VIEWS, num_frames=NUM_FRAMES, num_sequences=num_sequences)


def preprocessor() -> Preprocessor:
    """Of both mini models: the whole picture squashed to a square, so that nothing at the sides is lost."""
    return Preprocessor.square(int(TOWER["image_size"]), crop=False)  # type: ignore[call-overload]


def normalise(pictures: Tensor) -> Tensor:
    """uint8 [..., S, S, 3] to the float32 pixel values [..., 3, S, S] that `preprocessor()` gives."""
    settings = preprocessor()
    mean, std = torch.tensor(settings.image_mean), torch.tensor(settings.image_std)
    return ((pictures.float() / 255 - mean) / std).movedim(-1, -3)


def load_mini_data(split: str, num_sequences: int, cache: str | Path) -> MiniData:
    """Read `streets`, once: the small pictures are kept in `cache` for the next call.

    The cache is tied to the scenes, the index they are listed in and the picture size by a hash.
    """
    scenes = open_mini_scenes(split, num_sequences)
    index = (scenes.folder / INDEX_NAME).read_bytes()
    key = hashlib.sha256(index + json.dumps([scenes.ids, TOWER["image_size"]]).encode()).hexdigest()[:16]
    file = Path(cache) / f"pictures_{key}.npz"
    if not file.exists():
        loader = DataLoader(_SmallScenes(scenes), batch_size=None, num_workers=2)
        read = list(tqdm(loader, desc=f"read {scenes.name}", unit="scene", disable=None))
        with atomic_write(file) as partial:
            columns: dict[str, Any] = {name: np.stack([scene[name] for scene in read]) for name in read[0]}
            np.savez(partial, **columns)
    with np.load(file) as stored:
        return MiniData(
            events=torch.from_numpy(stored["events"]),
            frames=torch.from_numpy(stored["frames"]),
            labels=torch.from_numpy(stored["labels"]),
            questions_answers=read_pairs(stored["questions_answers"]),
            sequences=stored["sequence"].tolist(),
        )


def read_pairs(texts: np.ndarray) -> QuestionsAnswers:
    """Questions and answers from the JSON that a cache keeps of each scene."""
    return [[(question, answer) for question, answer in json.loads(text)] for text in texts]


def slot_labels(true: dict[str, str]) -> list[int]:
    """The true value of every slot as an index into `slot_values`, -1 where there is none."""
    return [slot_values(slot).index(true[slot]) if slot in true else NO_VALUE for slot in SLOTS]


class _SmallScenes(torch.utils.data.Dataset):
    def __init__(self, scenes: SceneFolder) -> None:
        self.scenes, self.resized = scenes, preprocessor().resized

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        scene = self.scenes[index]
        true = scene.metadata.get("slots")
        if not true or scene.answers is None:
            raise ValueError(f"{self.scenes.folder}: scene {scene.id} has no slots or answers; expected streets")
        return {
            "events": np.stack([self.resized(picture) for picture in scene.event_images]),
            "frames": np.stack([self.resized(picture) for picture in scene.frames]),
            "labels": np.array(slot_labels(true)),
            "questions_answers": np.array(json.dumps(list(zip(scene.questions, scene.answers, strict=True)))),
            "sequence": np.array(scene.sequence),
        }
