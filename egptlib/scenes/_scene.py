"""`Scene`: one paired sample, as models and figures take it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egptlib.scenes._questions import QUESTIONS, question_tuple
from egptlib.scenes._rendering import RenderingOrder, event_images
from egptlib.scenes._video import FrameSampling, frame_indices
from egptlib.scenes.events import Events, check_events, load_events


@dataclass(frozen=True, eq=False)
class Scene:
    """One paired sample: what the drafter sees, what the target sees, and what both are asked.

    `open_scenes` reads them from a folder; `Scene.from_events` makes one of arrays in memory.

    Attributes:
        id: of the sample; unique in its folder.
        sequence: the recording it was cut from; splits are made by sequence.
        event_images: uint8 [H, W, 3] RGB, one or several, each of an equal count of events.
        frames: uint8 [num_frames, H, W, 3] RGB.
        questions: at least one.
        answers: one a question; None when any is unknown.
        rendering: "last" or "polarity", or "stored" for pictures of a folder that does not say.
        frame_sampling: "even", "first" or "own" (the target's).
        frame_indices: which frames of the clip they are.
        metadata: "events" ("recorded", "simulated" or "unknown"), "images_from", "frames_from", "clip" (number of its
            frames and how many a second, or None), "load_seconds", and the entry's further keys in the JSON (such as
            "slots").
        event_path: the raw events, or None where the folder has none.
        choices: one a question: the options of a multiple-choice question (its answer is one of them), else empty.
        stream: raw events in memory, in place of `event_path`.
    """

    id: str
    sequence: str
    event_images: list[np.ndarray]
    frames: np.ndarray
    questions: tuple[str, ...] = QUESTIONS
    answers: tuple[str, ...] | None = None
    rendering: str = "stored"
    frame_sampling: str = "even"
    frame_indices: tuple[int, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    event_path: Path | None = None
    choices: tuple[tuple[str, ...], ...] = ()
    stream: Events | None = None

    @classmethod
    def from_events(
        cls,
        events: Mapping[str, np.ndarray],
        frames: Sequence[np.ndarray] | np.ndarray,
        questions: Sequence[str] | str = QUESTIONS,
        *,
        event_views: int = 1,
        num_frames: int = 8,
        sampling: FrameSampling = "even",
        order: RenderingOrder = "last",
        id: str = "scene",
    ) -> "Scene":
        """Make a scene of events and frames in memory, drawn and sampled as `open_scenes` does (arguments there).

        Args:
            events: x, y, t, p [N], in any order.
            frames: uint8 [H, W, 3] RGB each, of one size; the whole clip.

        Raises:
            ValueError: fewer events than pictures, no frames or frames of several sizes, no question.

        Example:
            >>> import numpy as np
            >>> events = {"x": np.array([0, 3]), "y": np.array([0, 1]), "t": np.array([5, 9]), "p": np.array([1, 0])}
            >>> scene = Scene.from_events(events, np.zeros((20, 32, 48, 3), np.uint8), "What moves?")
            >>> len(scene.event_images), scene.frames.shape, scene.frame_indices[:3]
            (1, (8, 32, 48, 3), (0, 2, 5))
        """
        asked = question_tuple([questions] if isinstance(questions, str) else questions)
        frames = frames if hasattr(frames, "__len__") else list(frames)
        shapes = {(frame.shape, str(frame.dtype)) for frame in map(np.asarray, frames)}
        if len(shapes) != 1 or not all(len(s) == 3 and s[2] == 3 and kind == "uint8" for s, kind in shapes):
            raise ValueError(f"frames: {sorted(shapes) or 'none'}; expected uint8 [H, W, 3] of one size")
        stream = check_events(events, "events").in_order()
        indices = frame_indices(len(frames), num_frames, sampling)
        return cls(
            id=id,
            sequence=id,
            event_images=event_images(stream, event_views, order),
            frames=np.stack([frames[index] for index in indices]),
            questions=asked or QUESTIONS,
            rendering=order,
            frame_sampling=sampling if isinstance(sampling, str) else "own",
            frame_indices=tuple(indices),
            metadata={"events": "unknown", "clip": (len(frames), None)},
            stream=stream,
        )

    def events(self) -> Events | None:
        """Return the raw events (see `load_events`), or None where there are none."""
        return load_events(self.event_path) if self.event_path else self.stream
