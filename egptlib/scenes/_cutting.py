"""Cutting a recording, events and frames on one clock, into the users' dataset folder: its one writer."""

import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from egptlib._paths import parse_json, write_json
from egptlib._terminal import progress
from egptlib._whole import whole
from egptlib.scenes._frames import Frames
from egptlib.scenes._images import write_png
from egptlib.scenes._index import INDEX_NAME
from egptlib.scenes._rendering import event_images
from egptlib.scenes._video import write_video
from egptlib.scenes.events import EventFile, Events, save_events

_PARTS = ".cut"  # one JSON a finished sequence: what resuming looks at and the index is merged from

# (sequence name, window start, window stop in microseconds) -> further keys of that window's JSON entry
Annotator = Callable[[str, int, int], dict[str, Any]]


def always(keys: dict[str, Any]) -> Annotator:
    """Return an annotator that gives every window the same keys."""
    return lambda *_: dict(keys)


class EventSource(Protocol):
    """What events are cut from, such as an `EventFile`."""

    path: Path

    def window(self, start_us: int | None = None, stop_us: int | None = None) -> Events:
        """Return the events with `start_us <= t < stop_us`."""


class Clip(NamedTuple):
    """A recording that is one scene as a whole.

    Attributes:
        name: of the scene.
        path: of its events.
        open: gives events, frames and the span [start, stop) of both, to be closed by the stack it is given.
        entry: further keys of its JSON entry.
        label: where the events come from.
    """

    name: str
    path: Path
    open: Callable[[ExitStack], tuple[EventSource, Frames, tuple[int, int]]]
    entry: dict[str, Any]
    label: str = "recorded"


@dataclass(frozen=True)
class CutReport:
    """What was cut; `samples` counts the whole folder, `set_aside` names its windows that lack frames or events."""

    folder: Path
    samples: int
    sequences_cut: int
    sequences_skipped: int
    set_aside: tuple[str, ...]

    def __str__(self) -> str:
        skipped = f", {self.sequences_skipped} there already" if self.sequences_skipped else ""
        aside = f"; {len(self.set_aside)} windows set aside for lack of events or frames" if self.set_aside else ""
        return f"cut {self.sequences_cut} sequences{skipped}{aside}: {self.samples} samples -> {self.folder}"


def parse_window(text: str) -> int:
    """Return "1s", "500ms", "250000us" as microseconds; ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|ms|us)", text.strip())
    window_us = round(float(match[1]) * {"s": 1_000_000, "ms": 1000, "us": 1}[match[2]]) if match else 0
    if window_us < 2:
        raise ValueError(f"window {text!r} is not a duration such as 1s or 500ms")
    return window_us


def cut_recording(
    name: str,
    events: EventSource,
    frames: Frames,
    out: Path,
    spans: Sequence[tuple[int, int]],
    settings: dict[str, Any],
    *,
    label: str = "recorded",
    annotate: Annotator | None = None,
) -> int:
    """Write the windows `spans` [start, stop) of a recording as sequence `name`; return how many were not set aside.

    Only the frames and events of one window are in memory. Call `write_index` at the end.

    Args:
        settings: as `cut_settings` gives them; kept, so that `is_cut` can compare.
        label: where the events come from: "recorded", "simulated" or "binned".
    """
    for folder in ("event_image", "event_image_1f", "mp4", "event_npy"):
        shutil.rmtree(out / folder / name, ignore_errors=True)  # what an interrupted cut left
    times, views = frames.times, settings["views"]
    if isinstance(events, EventFile):
        _check_clock(events, times)
    samples, set_aside = [], []
    for number, (start, stop) in enumerate(spans):
        stem = f"{name}/{number:06d}"
        part, indices = events.window(start, stop).in_order(), _frames_inside(times, start, stop)
        if len(part["t"]) < max(views, default=0) or not indices:
            set_aside.append(stem)
            continue
        try:
            _write_pictures(out, stem, part, views)
        except ValueError as error:
            raise ValueError(f"{events.path}: events from {start} to {stop} us: {error}") from error
        _write_clip(out / "mp4" / f"{stem}.mp4", frames.read(indices), times[indices])
        if settings["keep_events"]:
            extras = {"time_start": start, "time_end": stop, "duration_ms": (stop - start) / 1000}
            extras |= {"image_timestamp": int(times[indices[0]]), "image_idx": indices[0]}
            save_events(out / "event_npy" / f"{stem}.npy", part, **extras, image_indices_in_clip=list(indices))
        entry = _entry(out.name, stem, views) | {"sequence": name, "events": label}
        entry |= {"event_order": "last", "start_us": start, "stop_us": stop, "num_events": len(part["t"])}
        samples.append(entry | (annotate(name, start, stop) if annotate else {}))
    write_json(_part(name, out), {"settings": settings, "samples": samples, "set_aside": set_aside})
    return len(samples)


def cut_clips(clips: Iterable[Clip], out: str | PathLike[str]) -> CutReport:
    """Write each clip as one scene of the dataset folder `out`; those without frames or events are set aside.

    Raises:
        ValueError: `out` was cut with other settings.
    """
    out, num_cut, num_skipped = own_folder(out), 0, 0
    for clip in progress(clips, desc=f"cut {out.name}", unit="scene", disable=None):
        settings = cut_settings(0) | {"file": [clip.path.name, clip.path.stat().st_size]}
        settings |= {"entry": clip.entry}
        if is_cut(clip.name, out, settings):
            num_skipped += 1
            continue
        with ExitStack() as stack:
            events, frames, span = clip.open(stack)
            annotate = always(clip.entry)
            cut_recording(clip.name, events, frames, out, [span], settings, label=clip.label, annotate=annotate)
        num_cut += 1
    return finish_folder(out, num_cut, num_skipped)


def _check_clock(events: EventFile, times: np.ndarray) -> None:
    """ValueError where events lie on the frames' clock only if their times are nanoseconds."""
    span = None if events.is_coded or len(times) < 2 else events.span()
    if span is None:
        return
    first, last = int(times[0]), int(times[-1])
    if span[1] - span[0] < 100 * (last - first):
        return
    slack = (last - first) / 5
    if abs(span[0] / 1000 - first) < slack and abs(span[1] / 1000 - last) < slack:
        raise ValueError(
            f"{events.path}: field 't' goes from {span[0]} to {span[1]}, the frames' clock from {first} to {last} us: "
            "nanoseconds? Expected microseconds"
        )


def windows(times: np.ndarray, window_us: int) -> list[tuple[int, int]]:
    """Return the full windows [start, stop) of a recording with these image times, overlapping by half.

    Raises:
        ValueError: less than two microseconds.
    """
    window_us = whole(window_us, "window_us", 2)
    if len(times) < 2:
        return []
    end = int(times[-1]) + round(float(np.median(np.diff(times))))
    starts = range(int(times[0]), end - window_us + 1, window_us // 2)
    return [(start, start + window_us) for start in starts]


def is_cut(name: str, out: str | PathLike[str], settings: dict[str, Any]) -> bool:
    """Tell whether sequence `name` is complete in `out`; ValueError when it was cut with other settings."""
    path = _part(name, Path(out))
    if not path.is_file():
        return False
    before = parse_json(path.read_bytes(), path)["settings"]
    if before != settings:
        raise ValueError(f"{out}: sequence {name} was cut with {before}, not {settings}; choose another folder")
    return True


def forget_sequence(name: str, out: Path) -> None:
    """Let a sequence count as not cut."""
    _part(name, out).unlink(missing_ok=True)


def write_index(out: str | PathLike[str]) -> int:
    """Write the dataset's JSON from the sequences cut so far, sorted by event path; return the number of samples."""
    return finish_folder(out, 0, 0).samples


def finish_folder(out: str | PathLike[str], num_cut: int, num_skipped: int) -> CutReport:
    """As `write_index`, with a report."""
    out = own_folder(out)
    parts = [parse_json(path.read_bytes(), path) for path in sorted((out / _PARTS).glob("*.json"))]
    samples = [sample for part in parts for sample in part["samples"]]
    write_json(out / INDEX_NAME, sorted(samples, key=lambda sample: sample["event_data"]))
    aside = tuple(name for part in parts for name in part["set_aside"])
    return CutReport(out, len(samples), num_cut, num_skipped, aside)


def own_folder(out: str | PathLike[str]) -> Path:
    """Return `out` as a path; ValueError when it is a dataset folder that was made elsewhere."""
    out = Path(out)
    if (out / INDEX_NAME).is_file() and not (out / _PARTS).is_dir():
        raise ValueError(f"{out}: holds a dataset that was not cut by egptlib; choose another folder")
    return out


def _part(name: str, out: Path) -> Path:
    return out / _PARTS / f"{name}.json"


def cut_settings(window_us: int, views: Sequence[int] = (5, 1), keep_events: bool = False) -> dict[str, Any]:
    if not set(views) <= {1, 5}:
        raise ValueError(f"views {list(views)}: a dataset folder has places for 1 and 5 event pictures only")
    return {"window_us": whole(window_us, "window_us"), "views": sorted(map(int, views)), "keep_events": keep_events}


def _frames_inside(times: np.ndarray, start: int, stop: int) -> range:
    """Return the indices of the frames of [start, stop).

    The bounds are moved by a tenth of a frame period, so that a jitter of microseconds in the image clock does not
    give 19 frames in one window and 21 in the next.
    """
    slack = float(np.median(np.diff(times))) / 10 if len(times) > 1 else 0
    first, last = np.searchsorted(times, [start - slack, stop - slack], side="left")
    return range(int(first), int(last))


def _write_pictures(out: Path, stem: str, events: Events, views: Sequence[int]) -> None:
    for n in views:
        for number, image in enumerate(event_images(events, n)):
            path = out / ("event_image_1f" if n == 1 else "event_image") / f"{stem}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, image, flat=True)


def _write_clip(path: Path, frames: list[np.ndarray], times: np.ndarray) -> None:
    """Write a window's clip: at a whole frame rate where the frames are evenly spaced, else at their own times."""
    gaps = np.diff(times)
    period = float(np.median(gaps)) if len(gaps) else 50_000.0
    even = bool(np.all(np.abs(gaps - period) < 0.1 * period))
    fps = max(1, round(1e6 / period))
    height, width = (side & ~1 for side in frames[0].shape[:2])  # H.264 has no odd sides: the last row or column goes
    frames = [frame[:height, :width] for frame in frames]
    write_video(path, frames, fps=fps, timestamps_us=None if even else times)


def _entry(split: str, stem: str, views: Sequence[int]) -> dict[str, Any]:
    """Return the keys that every entry of the users' JSON has."""
    entry: dict[str, Any] = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"egptlib/{split}/{stem}")),
        "split": split,
        "event_data": f"{stem}.npy",
        "video_data": stem,
        "mp4_data": f"{stem}.mp4",
    }
    if 5 in views:
        entry["event_image"] = [f"{stem}_{number}.png" for number in range(5)]
    if 1 in views:
        entry["event_image_1f"] = [f"{stem}_0.png"]
    entry["conversations"] = [{"from": "human", "value": ""}, {"from": "gpt", "value": ""}]
    return entry
