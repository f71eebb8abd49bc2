"""`open_scenes`: a dataset folder as a lazy sequence of scenes; indexing one scene reads one scene."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from logging import getLogger
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np

from egptlib._paths import data_root, find_path
from egptlib.scenes._cutting import cut_settings, is_cut
from egptlib.scenes._images import read_image
from egptlib.scenes._index import INDEX_NAME, Record, read_index
from egptlib.scenes._questions import QUESTIONS, question_tuple
from egptlib.scenes._rendering import RenderingOrder, event_images
from egptlib.scenes._scene import Scene
from egptlib.scenes._video import FrameSampling, clip_length, read_frames
from egptlib.scenes.events import load_events
from egptlib.scenes.streets._world import street_name

log = getLogger(__name__)


class Reading(TypedDict, total=False):
    """What `open_scenes` takes by name about how scenes are read."""

    event_views: int
    num_frames: int
    sampling: FrameSampling
    order: RenderingOrder
    from_events: bool


@dataclass(frozen=True)
class SceneOptions:
    """How scenes are read; the arguments of `open_scenes` that are not about where they come from."""

    event_views: int = 1
    num_frames: int = 8
    sampling: FrameSampling = "even"
    order: RenderingOrder = "last"
    from_events: bool = False
    questions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.event_views < 1 or self.num_frames < 1:
            raise ValueError(f"event_views={self.event_views}, num_frames={self.num_frames}: both must be at least 1")
        if self.sampling not in ("even", "first") and not callable(self.sampling):
            raise ValueError(f"unknown frame sampling {self.sampling!r}; expected 'even', 'first' or a function")
        if self.order not in ("last", "polarity"):
            raise ValueError(f"unknown rendering order {self.order!r}; expected 'last' or 'polarity'")


class SceneFolder(Sequence[Scene]):
    """The scenes of a dataset folder, in the order of its JSON; each is read when it is indexed."""

    def __init__(self, folder: str | PathLike[str], options: SceneOptions | None = None) -> None:
        self.folder = Path(folder)
        self.options = options or SceneOptions()
        self._records = read_index(self.folder)
        if not self._records:
            raise ValueError(f"{self.folder / INDEX_NAME}: lists no samples; expected at least one")

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def ids(self) -> list[str]:
        """Ids of all scenes, without reading one."""
        return [record.id for record in self._records]

    @property
    def sequences(self) -> list[str]:
        """Names of the recordings, each once, in order."""
        return list(dict.fromkeys(record.sequence for record in self._records))

    @property
    def num_questions(self) -> int:
        """Questions that every scene has, the fewest of all, without reading one; 0 where there is no scene."""
        asked = self.options.questions
        return min((len(asked or record.questions or QUESTIONS) for record in self._records), default=0)

    def metadata(self) -> list[dict[str, Any]]:
        """Sequence and further keys of the entry (such as "slots") of each scene, without reading one."""
        return [{"sequence": record.sequence, **record.extra} for record in self._records]

    def select(self, sequences: Iterable[str] | None = None, ids: Iterable[str] | None = None) -> "SceneFolder":
        """Return the scenes of these sequences (and with these ids), in their order here.

        Raises:
            ValueError: a sequence or id that is not here.
        """
        chosen = self._records
        for wanted, key in ((sequences, "sequence"), (ids, "id")):
            if wanted is None:
                continue
            names = {wanted} if isinstance(wanted, str) else set(wanted)
            if unknown := names - {getattr(record, key) for record in self._records}:
                raise ValueError(f"{self.folder}: has no {key} {', '.join(sorted(unknown))}")
            chosen = [record for record in chosen if getattr(record, key) in names]
        return self._with(chosen)

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> "SceneFolder": ...
    def __getitem__(self, index: int | slice) -> "Scene | SceneFolder":
        if isinstance(index, slice):
            return self._with(self._records[index])
        return read_scene(self._records[index], self.options)

    def __iter__(self) -> Iterator[Scene]:
        return (read_scene(record, self.options) for record in self._records)

    def readable(self) -> Iterator[Scene]:
        """The scenes that can be read; a damaged one is set aside, with its reason as a warning.

        Raises:
            ValueError: there is none; the folder and the first scene's reason are named.
        """
        found, failed = False, list[str]()
        for record in self._records:
            try:
                scene = read_scene(record, self.options)
            except (ValueError, OSError) as error:
                failed.append(f"scene {record.id}: " + str(error).removeprefix(f"scene {record.id}: "))
                continue
            _set_aside(failed)
            found = True
            yield scene
        if not found:
            raise ValueError(none_readable(self, failed[0]))
        _set_aside(failed)

    def __repr__(self) -> str:
        return f"SceneFolder({str(self.folder)!r}, {len(self)} scenes of {len(self.sequences)} sequences)"

    def spread(self, num_scenes: int) -> "SceneFolder":
        """So many scenes, taken evenly from all, or all where there are fewer.

        Raises:
            ValueError: a number below 1.
        """
        if num_scenes < 1:
            raise ValueError(f"num_scenes: expected at least 1, found {num_scenes}")
        return self._with([self._records[i] for i in evenly(len(self), num_scenes)])

    def _with(self, records: list[Record]) -> "SceneFolder":
        other = object.__new__(SceneFolder)
        other.folder, other.options, other._records = self.folder, self.options, records
        return other


def _set_aside(failed: list[str]) -> None:
    for line in failed:
        log.warning("set aside: %s", line)
    failed.clear()


def none_readable(scenes: Sequence[Scene], reason: str) -> str:
    """What a verb says where all its scenes are damaged: their folder, and why the first is."""
    folder = f"{scenes.folder}: " if isinstance(scenes, SceneFolder) else ""
    return f"{folder}none of {len(scenes)} scenes could be read; {reason}"


def evenly(total: int, count: int) -> list[int]:
    """Numbers of `count` things out of `total`, evenly from the first on; all where there are fewer."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def open_scenes(
    source: str | PathLike[str],
    split: str | None = None,
    *,
    questions: Sequence[str] | str | PathLike[str] | None = None,
    num_sequences: int | None = None,
    **options: Unpack[Reading],
) -> SceneFolder:
    """Open a dataset folder, or a built-in source that is made on first use.

    Args:
        source: a folder with `EventGPT_Instruction_Subset.json`; or "streets" (alias "mini": procedural scenes) or
            "clips" (two real clips with simulated events), kept under `data_root()`. "./streets" is a folder.
        split: "train" or "test" (default) of "streets". A folder and "clips" are one split: it makes no difference.
        questions: asked of every scene instead of its own: the questions, or a file (see `load_questions`). Scenes
            without any get the ten of `QUESTIONS`.
        num_sequences: open only the first of the sequences; of "streets", further ones are made when needed.
        event_views: event pictures a scene, 1 when left out. 1 reads `event_image_1f/`, n reads `event_image/` where it
            has n pictures; otherwise they are drawn from `event_npy/`.
        num_frames, sampling: see `read_frames`; a target's own sampling is `sampling=pair.target.sampling`.
        order: which event wins a pixel, where pictures are drawn here (see `event_images`).
        from_events: draw from `event_npy/` even where there are pictures.

    Raises:
        FileNotFoundError: no such folder, or it has no index.
        ValueError: the index is damaged, or an option is unknown.
        ConnectionError: the source of "clips" could not be downloaded.

    Example:
        >>> scenes = open_scenes("streets", event_views=5, num_sequences=1)  # lazy: indexing a scene reads it
        >>> len(scenes[0].event_images), len(scenes[0].frames), scenes[0].questions[0]
        (5, 8, 'What are the key elements in this scene?')
    """
    how = SceneOptions(questions=question_tuple(questions), **options)
    if source in ("streets", "mini"):
        folder, names = _streets(split or "test", num_sequences)
        scenes = SceneFolder(folder, how)
        # a window without events is left out, and so is a sequence of nothing else
        return scenes.select(set(names) & set(scenes.sequences)) if names else scenes
    if source == "clips":
        scenes = SceneFolder(_clips(), how)
    else:
        missing = "no such dataset folder, and not one of streets, mini, clips"
        scenes = SceneFolder(source if Path(source).exists() else find_path(source, missing), how)
    return scenes if num_sequences is None else scenes.select(scenes.sequences[:num_sequences])


def _streets(split: str, num_sequences: int | None) -> tuple[Path, list[str]]:
    """Return the folder of a split and the names asked for; sequences that are missing are made."""
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} of streets: expected 'train' or 'test'")
    folder = data_root() / "streets" / f"streets_{split}_1s"
    names = [street_name(split, index) for index in range(num_sequences or 0)]
    if not (folder / INDEX_NAME).is_file() or not all(is_cut(name, folder, cut_settings(1_000_000)) for name in names):
        from egptlib.scenes.streets._make import make_streets

        log.info("making %s (once)", folder)
        make_streets(folder, split, **({} if num_sequences is None else {"num_sequences": num_sequences}))
    return folder, names


def _clips() -> Path:
    folder = data_root() / "clips" / "clips_1s"
    if not (folder / INDEX_NAME).is_file():  # it is written last
        from egptlib.scenes._clips import make_clips

        log.info("making %s (once)", folder)
        make_clips(folder)
    return folder


def read_scene(record: Record, options: SceneOptions) -> Scene:
    """Read the files of one record.

    Raises:
        FileNotFoundError: none of the files that could give its event images (or its frames) exists.
        ValueError: a file is damaged.
    """
    start = time.perf_counter()
    images, rendering, images_from = _read_event_images(record, options)
    frames_from = _frame_source(record)
    frames, indices = read_frames(frames_from, options.num_frames, options.sampling)
    questions, answers, choices = _ask(record, options.questions)
    metadata = {"events": "unknown", **record.extra}
    metadata |= {"images_from": str(images_from), "frames_from": str(frames_from), "clip": clip_length(frames_from)}
    return Scene(
        id=record.id,
        sequence=record.sequence,
        event_images=images,
        frames=frames,
        questions=questions,
        answers=answers,
        rendering=rendering,
        frame_sampling=options.sampling if isinstance(options.sampling, str) else "own",
        frame_indices=tuple(indices),
        metadata=metadata | {"load_seconds": time.perf_counter() - start},
        event_path=record.event_path if record.event_path.is_file() else None,
        choices=choices,
    )


def stored_images(record: Record, event_views: int) -> tuple[Path, ...]:
    """Return the PNGs that can serve as `event_views` pictures, whether they exist or not.

    A picture of `event_image/` is one part of the events, so it never serves as the single picture.
    """
    if event_views == 1:
        return (record.image_1f_path,)
    return record.image_paths if len(record.image_paths) == event_views else ()


def _read_event_images(record: Record, options: SceneOptions) -> tuple[list[np.ndarray], str, Path]:
    paths = stored_images(record, options.event_views)
    if paths and not options.from_events and any(path.is_file() for path in paths):
        # of a set with gaps, read_image names the missing one
        return [read_image(path) for path in paths], str(record.extra.get("event_order", "stored")), paths[0].parent
    if record.event_path.is_file():
        events = load_events(record.event_path).in_order()
        try:
            images = event_images(events, options.event_views, options.order)
        except ValueError as error:
            raise ValueError(f"{record.event_path}: {error}") from error
        return images, options.order, record.event_path
    tried = [str(path) for path in paths if not options.from_events] + [str(record.event_path)]
    raise FileNotFoundError(
        f"scene {record.id}: no source for {options.event_views} event image(s); looked for {', '.join(tried)}"
    )


def _frame_source(record: Record) -> Path:
    if record.mp4_path.is_file():
        return record.mp4_path
    if record.frames_path.is_dir():
        return record.frames_path
    raise FileNotFoundError(f"scene {record.id}: no video; looked for {record.mp4_path} and {record.frames_path}/*.png")


def _ask(
    record: Record, asked: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[tuple[str, ...], ...]]:
    """Choose the questions (the caller's, else the record's, else the default ten); find their answers and options."""
    answers = dict(zip(record.questions, record.answers))
    options = dict(zip(record.questions, record.choices))
    questions = asked or record.questions or QUESTIONS
    told = record.answers if questions is record.questions else [answers.get(question) for question in questions]
    known = tuple(answer for answer in told if answer)  # of a question that stands there twice each has its own
    choices = tuple(options.get(question, ()) for question in questions)
    return questions, known if len(known) == len(questions) else None, choices
