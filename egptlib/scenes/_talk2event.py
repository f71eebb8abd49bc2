"""Talk2Event (Kong et al. 2025): expressions that mean one object each, in driving scenes of DSEC; one scene a picture.

    meta_data_v10/SPLIT/SEQ.json    a list of objects: id, event_path, image_path, class, bbox {x, y, w, h}, captions
    EVENT_PATH                      .npz with `events` uint8 [20, 480, 640]: counts of negative events in ten bins of
                                    time, then of positive ones
    IMAGE_PATH                      the frame, as .png (the annotations say .jpg)

The layout is read from the code of the dataset's own repository. Events are published as counts alone: inside a bin
their order is lost, and positive ones are taken to come last; t is the number of the bin.
"""

import json
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from egptlib.scenes._cutting import Clip
from egptlib.scenes._frames import Frames, PngFrames
from egptlib.scenes._index import relative_path
from egptlib.scenes.events import Events

_BINS, _HEIGHT, _WIDTH = 10, 480, 640  # of the events; boxes and frames are on the same grid
_FORM = "Answer with [left, top, right, bottom], as shares of the picture's width and height."


class BinnedEvents:
    """Counts of events in bins of time, as a stream that `cut_recording` takes; ValueError for other files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                counts = file["events"]
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not a readable .npz with 'events': {error}") from error
        if counts.shape != (2 * _BINS, _HEIGHT, _WIDTH) or counts.dtype.kind != "u":
            expected = f"unsigned [{2 * _BINS}, {_HEIGHT}, {_WIDTH}]"
            raise ValueError(f"{path}: 'events' is {counts.dtype} {counts.shape}; expected {expected}")
        by_time = counts.reshape(2, _BINS, _HEIGHT, _WIDTH).swapaxes(0, 1)
        t, p, y, x = np.repeat(np.nonzero(by_time), by_time[by_time > 0], axis=1)
        self._events = Events(x=x.astype(np.uint16), y=y.astype(np.uint16), t=t, p=p.astype(np.uint8))
        self._events.size = _HEIGHT, _WIDTH

    def window(self, start_us: int | None = None, stop_us: int | None = None) -> Events:
        """Return all of them."""
        return self._events


def is_talk2event(root: str | PathLike[str]) -> bool:
    """Whether a folder is laid out as Talk2Event."""
    return (Path(root) / "meta_data_v10").is_dir()


def read_talk2event(root: str | PathLike[str]) -> Iterator[Clip]:
    """Yield Talk2Event's pictures as scenes: each expression asks where its object is, the answer is its box.

    A scene's clip is its one frame. The boxes stand in its metadata too: `objects`, a list of id, class, bbox (pixels).

    Raises:
        FileNotFoundError: a file of events or a frame is missing.
        ValueError: a file is not as described above.
    """
    root = Path(root)
    files = sorted((root / "meta_data_v10").glob("*/*.json"))
    if not files:
        raise ValueError(f"{root}: holds no meta_data_v10/SPLIT/SEQ.json")
    for path in files:
        by_picture: dict[tuple[str, str], list[dict[str, Any]]] = {}
        try:
            for item in json.loads(path.read_text(encoding="utf-8")):
                by_picture.setdefault((item["event_path"], item["image_path"]), []).append(item)
            clips = [_clip(root, path, *names, items) for names, items in by_picture.items()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not valid JSON: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a list of objects with the fields of Talk2Event: {error!r}") from error
        yield from clips


def _clip(root: Path, path: Path, events: str, image: str, items: list[dict[str, Any]]) -> Clip:
    split, sequence = path.parent.name, path.stem
    where = str(path)
    events_path = root / relative_path(where, "event_path", events)
    frame_path = (root / relative_path(where, "image_path", image)).with_suffix(".png")
    qa = [
        {"question": f"Where is this? {caption.strip()} {_FORM}", "answer": _box(item["bbox"])}
        for item in items
        for caption in item["captions"]
    ]
    objects = [{key: item[key] for key in ("id", "class", "bbox")} for item in items]
    entry = {"qa": qa, "objects": objects, "sequence": sequence}
    name = f"{split}_{sequence}_{events_path.stem}"
    return Clip(name, events_path, partial(_open, events_path, frame_path), entry, "binned")


def _box(box: dict[str, float]) -> str:
    left, top, right, bottom = box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]
    shares = (left / _WIDTH, top / _HEIGHT, right / _WIDTH, bottom / _HEIGHT)
    return "[" + ", ".join(f"{min(max(share, 0.0), 1.0):.2f}" for share in shares) + "]"


def _open(events: Path, image: Path, _: ExitStack) -> tuple[BinnedEvents, Frames, tuple[int, int]]:
    return BinnedEvents(events), PngFrames(image, np.zeros(1), [image]), (0, _BINS)
