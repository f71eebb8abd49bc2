"""EventBench (Liu et al. 2025, arXiv 2511.18448): questions on recordings of events; one scene a question list.

    NAME.json                  a list of {"event_data": PATH, "conversations": [{"from", "value"}], ...}, as EventGPT's
    PATH (.npz or .npy)        x, y, t, p; `event_data`; or, preprocessed, `event_bins`: a list of streams

What its own code (XduSyL/EventBench, commits 83f1320 and 500ee55) tells: the recordings, the turns with `<event>`, and
the size of the sensor by the type of data. The published list of questions could not be read; see data/README.md.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from egptlib._paths import parse_json
from egptlib.scenes._cutting import Clip
from egptlib.scenes._frames import Frames, VideoFrames
from egptlib.scenes._index import INDEX_NAME, parse_questions, relative_path
from egptlib.scenes._rendering import event_images
from egptlib.scenes.events import EventFile, Events

# (height, width) by type of data: script/event_size_type.yaml
_SIZES = {
    (720, 1280): "event_ocr emotion_cls",
    (480, 640): "dsec_n_imagenet gesture_recognition_EB_hand",
    (260, 346): "action_recognition action_bullying casual_reasoning",
    (240, 320): "v2e kinetics action_order obj_size obj_counting rel_distance abs_distance rel_direction 3DOD ScanQA "
    "SQA gesture_recognition_HWGesture",
}
_SIZE = {kind: size for size, kinds in _SIZES.items() for kind in kinds.split()}
_BINS = ((100_000, 4), (4_000_000, 8), (16_000_000, 16))  # (up to so many us, pictures), else 32: bin_selector.py
_VIDEOS = (".mp4", ".mkv", ".webm", ".avi")


class EventPictures(Frames):
    """Pictures of a recording's own events, in as many equal parts as EventGPT-Plus looks at: 4, 8, 16 or 32."""

    def __init__(self, path: Path, events: Events) -> None:
        first, span = int(events["t"].min()), int(np.ptp(events["t"]))
        count = next((count for longest, count in _BINS if span <= longest), 32)
        self._pictures = event_images(events.in_order(), count, size=events.size)
        super().__init__(path, first + np.arange(count) * max(span // count, 1))

    def _load(self, index: int) -> np.ndarray:
        return self._pictures[index]


class _Sized:
    """A recording whose sensor's size is told by its type of data, as a stream that `cut_recording` takes."""

    def __init__(self, events: EventFile, size: tuple[int, int] | None) -> None:
        self.path, self._events, self._size = events.path, events, size or events.size

    def window(self, start_us: int | None = None, stop_us: int | None = None) -> Events:
        """As `EventFile.window`."""
        events = self._events.window(start_us, stop_us)
        events.size = self._size
        return events


def is_eventbench(root: str | PathLike[str]) -> bool:
    """Whether a folder holds lists of questions on recordings of events, and is no dataset folder of ours."""
    if not Path(root).is_dir() or (Path(root) / INDEX_NAME).exists():
        return False
    for path in sorted(Path(root).glob("*.json")):
        with path.open("rb") as file:
            head = file.read(100_000)
        if b'"event_data"' in head and b'"conversations"' in head:
            return True
    return False


def read_eventbench(root: str | PathLike[str], video: str | PathLike[str] | None = None) -> Iterator[Clip]:
    """Yield EventBench's recordings, in the order of the lists, each with all its questions as one scene.

    EventBench has no frames. Without `video` the target is shown pictures of the same events; a scene's metadata says
    so: `"frames": "events"`.

    Args:
        root: the folder with the lists of questions; recordings are named relative to it.
        video: a folder with the videos that events were simulated from, named as the recordings; those that begin with
            their events. Recordings without a video are set aside by name then.

    Raises:
        FileNotFoundError: a recording is missing.
        ValueError: a file is not as described above.
    """
    root = Path(root)
    for path in sorted(root.glob("*.json")):
        entries = parse_json(path.read_bytes(), path)
        if not isinstance(entries, list):
            raise ValueError(f"{path}: expected a list of questions, found {type(entries).__name__}")
        by_recording: dict[str, dict[str, Any]] = {}
        for number, entry in enumerate(entries):
            where = f"{path}: entry {number}"
            if not isinstance(entry, dict) or not entry.get("conversations"):
                raise ValueError(f"{where}: expected an object with 'event_data' and 'conversations'")
            name = str(relative_path(where, "event_data", entry.get("event_data")))
            own = by_recording.setdefault(name, {"qa": [], "event_data_type": entry.get("event_data_type", path.stem)})
            for question, answer, _ in zip(*parse_questions(where, entry), strict=True):
                own["qa"].append({"question": question, "answer": answer})
        for name, own in by_recording.items():
            yield _clip(root, path, name, own, None if video is None else Path(video))


def _clip(root: Path, path: Path, name: str, entry: dict[str, Any], videos: Path | None) -> Clip:
    recording, kind = root / name, entry["event_data_type"]
    if not recording.is_file():  # preprocessed: whatever the list says, the file is an archive
        recording = recording.with_suffix(".npz")
    entry |= {"frames": "events" if videos is None else "video"}
    label = "simulated" if kind == "v2e" else "unknown"
    stem = str(PurePosixPath(name).with_suffix("")).replace("/", "_")
    return Clip(f"{path.stem}_{stem}", recording, partial(_open, recording, _SIZE.get(kind), videos), entry, label)


def _open(
    path: Path, size: tuple[int, int] | None, videos: Path | None, stack: ExitStack
) -> tuple[_Sized, Frames, tuple[int, int]]:
    file = stack.enter_context(EventFile(path))
    events, span = _Sized(file, size), file.span()
    if span is None:
        raise ValueError(f"{path}: holds no events")
    if videos is None:
        return events, EventPictures(path, events.window()), (span[0], span[1] + 1)
    named = (videos / f"{path.stem}{suffix}" for suffix in _VIDEOS)
    found = next((video for video in named if video.is_file()), None)
    if found is None:
        return events, Frames(videos, np.zeros(0, dtype=np.int64)), (span[0], span[1] + 1)
    frames = stack.enter_context(closing(VideoFrames(found, span[0])))
    ends = [bounds[1] for bounds in (span, frames.span()) if bounds]
    return events, frames, (span[0], max(ends) + 1)
