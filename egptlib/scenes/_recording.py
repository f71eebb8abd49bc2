"""From a recording and its frames to scenes: any format of events, with a video or the frames of the same file."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any

from egptlib._whole import whole
from egptlib.scenes._cutting import (
    Clip,
    CutReport,
    always,
    cut_recording,
    cut_settings,
    finish_folder,
    forget_sequence,
    is_cut,
    own_folder,
    windows,
)
from egptlib.scenes._eventbench import is_eventbench, read_eventbench
from egptlib.scenes._evqa import is_evqa, read_evqa
from egptlib.scenes._frames import Aedat4Frames, Frames, Hdf5Frames, VideoFrames
from egptlib.scenes._questions import load_questions
from egptlib.scenes._talk2event import is_talk2event, read_talk2event
from egptlib.scenes.events import EventFile


def make_scenes(
    events: str | PathLike[str],
    out: str | PathLike[str],
    *,
    video: str | PathLike[str] | None = None,
    window_us: int = 1_000_000,
    offset_us: int = 0,
    questions: Sequence[str] | str | PathLike[str] | None = None,
    views: Sequence[int] = (5, 1),
    keep_events: bool = False,
) -> CutReport:
    """Cut a recording into windows that overlap by half, as the dataset folder that `open_scenes` opens.

    As `cut_dsec` does it: windows start at the first frame; those without frames, or with fewer events than pictures to
    draw, are set aside. The recording becomes a sequence named after its file. `out` can be extended by further
    recordings. Both are read as streams: one window of events and of frames is in memory.

    Args:
        events: a recording of any format that `load_events` opens.
        out: the dataset folder; its name becomes the entries' "split".
        video: any video that FFmpeg reads; None takes the frames of `events` itself (M3ED, MVSEC,
            AEDAT4).
        window_us: length of a window in microseconds.
        offset_us: the time on the events' clock at which the frames' clock is zero.
        questions: asked of every window: the questions, or a file (see `load_questions`); None leaves them open.
        views: event pictures a window: 5 writes `event_image/`, 1 writes `event_image_1f/`.
        keep_events: also write `event_npy/`.

    Raises:
        FileNotFoundError: there is no such recording or video.
        ValueError: one of them is damaged, they have no window in common, or `out` has another recording of the name.
    """
    path, out, offset_us = Path(events), own_folder(out), whole(offset_us, "offset_us")
    asked = load_questions(questions) if isinstance(questions, str | PathLike) else tuple(questions or ())
    entry = {"qa": [{"question": question} for question in asked]} if asked else {}
    with EventFile(path) as file:
        settings: dict[str, Any] = cut_settings(window_us, views, keep_events)
        settings |= {"recording": [path.name, path.stat().st_size], "offset_us": offset_us, "questions": list(asked)}
        if video is not None:
            settings["video"] = [_video(video).name, _video(video).stat().st_size]
        elif _own_frames(path) is None:
            raise ValueError(f"{path}: holds no frames beside its events; video= (--video) names them")
        if not (was_cut := is_cut(path.stem, out, settings)):
            with closing(open_frames(video or path, offset_us)) as frames:
                spans = windows(frames.times, window_us)
                if not cut_recording(path.stem, file, frames, out, spans, settings, annotate=always(entry)):
                    forget_sequence(path.stem, out)
                    raise ValueError(_nothing_in_common(file, frames, window_us, len(spans)))
    return finish_folder(out, int(not was_cut), int(was_cut))


def open_frames(path: str | PathLike[str], offset_us: int = 0) -> Frames:
    """Open the frames of a video, or of a recording that holds them, as the first bytes tell.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds no frames.
    """
    path = _video(path)
    return (_own_frames(path) or VideoFrames)(path, offset_us)


def _video(path: str | PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video")
    return path


def has_frames(path: Path) -> bool:
    """Whether a recording of events may hold frames too."""
    kind = _own_frames(path)
    return kind is not None and (kind is not Hdf5Frames or Hdf5Frames.are_in(path))


_READERS: dict[Callable[..., bool], Callable[..., Iterator[Clip]]] = {
    is_evqa: read_evqa,
    is_talk2event: read_talk2event,
    is_eventbench: read_eventbench,
}


def published_reader(root: str | PathLike[str]) -> Callable[..., Iterator[Clip]] | None:
    """What reads a folder as the scenes that `cut_clips` takes; None where it has no published layout."""
    return next((read for is_laid_out, read in _READERS.items() if is_laid_out(root)), None)


def _own_frames(path: Path) -> Callable[..., Frames] | None:
    """Return what reads the frames of a recording of events, None for formats that have none."""
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Hdf5Frames
    return Aedat4Frames if head == b"#!AER-DAT4.0" else None


def _nothing_in_common(events: EventFile, frames: Frames, window_us: int, count: int) -> str:
    span = events.span()
    shown = frames.span()
    if shown is None:
        return f"{frames.path}: holds no frames"
    seen = f"{frames.path}: frames from {shown[0]} to {shown[1]} us"
    if count == 0:
        return f"{seen}: shorter than one window of {window_us} us"
    if span is None:
        return f"{events.path}: holds no events"
    return (
        f"{events.path}: events from {span[0]} to {span[1]} us, {seen}: no window of {window_us} us has both; "
        f"an offset of {span[0] - shown[0]} us (--offset-us) would let both begin together"
    )
