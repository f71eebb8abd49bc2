"""Talk2Event (Kong et al. 2025): expressions that mean one object each, in driving scenes of DSEC; one scene a picture.

    meta_data_v10/SPLIT/SEQ.json    a list of objects: id, event_path, image_path, class, bbox {x, y, w, h}, captions
    EVENT_PATH                      .npz with `events` uint8 [20, H, W]: counts of negative, then of positive events, each
                                    in ten bins of time
    IMAGE_PATH                      the frame, as .png (the annotations say .jpg)

The layout is read from the code of the dataset's own repository. Events are published as counts alone: inside a bin their
order is lost, and positive ones are taken to come last; t is the number of the bin.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from egptlib.scenes._cutting import CutReport, always, cut_recording, cut_settings, finish_folder, is_cut, own_folder
from egptlib.scenes._frames import ImageFrame
from egptlib.scenes._index import path_inside
from egptlib.scenes.events import Events

_BINS = 10


class Talk2EventPicture(NamedTuple):
    """One moment: the name of its scene, its files, and what the dataset folder says about it."""

    name: str
    events: Path
    image: Path
    entry: dict[str, Any]


class BinnedEvents:
    """Counts of events in bins of time, as a stream that `cut_recording` takes; ValueError for other files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                counts = file["events"]
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not a readable .npz with 'events': {error}") from error
        if counts.ndim != 3 or len(counts) != 2 * _BINS or counts.dtype.kind != "u":
            raise ValueError(f"{path}: 'events' is {counts.dtype} {counts.shape}; expected counts [20, height, width]")
        polarity, t, y, x = np.nonzero(counts.reshape(2, _BINS, *counts.shape[1:]))
        order = np.lexsort((polarity, t))
        repeated = np.repeat(order, counts.reshape(2, _BINS, *counts.shape[1:])[polarity, t, y, x][order])
        columns = {"x": (x, np.uint16), "y": (y, np.uint16), "t": (t, np.int64), "p": (polarity, np.uint8)}
        self._events = Events({key: values[repeated].astype(kind) for key, (values, kind) in columns.items()})
        self._events.size = counts.shape[1:]

    def window(self, start_us: int | None = None, stop_us: int | None = None) -> Events:
        """Return all of them."""
        return self._events


def is_talk2event(root: str | PathLike[str]) -> bool:
    """Whether a folder is laid out as Talk2Event."""
    return (Path(root) / "meta_data_v10").is_dir()


def make_talk2event(
    root: str | PathLike[str], out: str | PathLike[str], *, views: Sequence[int] = (5, 1), progress: bool = True
) -> CutReport:
    """Make a dataset folder of Talk2Event: each expression asks where its object is, the answer is its box.

    A scene's clip is its one frame. The boxes stand in its metadata too: `objects`, a list of id, class, bbox in pixels.

    Raises:
        FileNotFoundError: a file of events or a frame is missing.
        ValueError: a file is not as described above, or `out` was cut with other settings.
    """
    out, cut, skipped = own_folder(out), 0, 0
    hidden = None if progress else True  # None: shown on a terminal only
    for picture in tqdm(read_talk2event(root), desc=f"cut {out.name}", unit="picture", disable=hidden):
        settings = cut_settings(0, views) | picture.entry
        if is_cut(picture.name, out, settings):
            skipped += 1
            continue
        events, frame = BinnedEvents(picture.events), ImageFrame(picture.image)
        span = [(0, _BINS)]
        cut_recording(picture.name, events, frame, out, span, settings, label="binned", annotate=always(picture.entry))
        cut += 1
    return finish_folder(out, cut, skipped)


def read_talk2event(root: str | PathLike[str]) -> Iterator[Talk2EventPicture]:
    """Yield the pictures, each with all its expressions; errors as of `make_talk2event`."""
    root = Path(root)
    files = sorted((root / "meta_data_v10").glob("*/*.json"))
    if not files:
        raise ValueError(f"{root}: holds no meta_data_v10/SPLIT/SEQ.json")
    for path in files:
        try:
            objects = json.loads(path.read_text(encoding="utf-8"))
            by_picture: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for item in objects:
                by_picture.setdefault((item["event_path"], item["image_path"]), []).append(item)
            for (events, image), items in by_picture.items():
                yield _picture(root, path, events, image, items)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: an object lacks one of the fields of the layout, or it is wrong: {error!r}") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not valid JSON: {error}") from error


def _picture(root: Path, path: Path, events: str, image: str, items: list[dict[str, Any]]) -> Talk2EventPicture:
    frame = path_inside(root, Path(image).with_suffix(".png").as_posix(), f"{path}: 'image_path'")
    height, width = ImageFrame(frame).size
    qa, objects = [], []
    for item in items:
        left, top, right, bottom = (item["bbox"]["x"], item["bbox"]["y"], item["bbox"]["w"], item["bbox"]["h"])
        shares = (left / width, top / height, (left + right) / width, (top + bottom) / height)
        answer = "[" + ", ".join(f"{min(max(share, 0), 1):.2f}" for share in shares) + "]"
        for caption in item["captions"]:
            qa.append({"question": f"Where is this? {caption.strip()} {_FORM}", "answer": answer})
        objects.append({"id": item["id"], "class": item["class"], "bbox": item["bbox"]})
    name = f"{path.parent.name}_{path.stem}_{Path(events).stem}"
    entry = {"qa": qa, "objects": objects, "sequence": path.stem}
    return Talk2EventPicture(name, path_inside(root, events, f"{path}: 'event_path'"), frame, entry)


_FORM = "Answer with [left, top, right, bottom], as shares of the picture's width and height."
