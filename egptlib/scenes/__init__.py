"""Paired scenes: event streams, their pictures, video frames, questions; and the folders they come from.

Names are imported on first use, so that `import egptlib.scenes` stays cheap and loads neither PyAV nor HDF5.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from egptlib.scenes._check import Problem as Problem
    from egptlib.scenes._check import check_folder as check_folder
    from egptlib.scenes._check_recordings import check_scenes as check_scenes
    from egptlib.scenes._clips import make_clips as make_clips
    from egptlib.scenes._cutting import CutReport as CutReport
    from egptlib.scenes._cutting import parse_window as parse_window
    from egptlib.scenes._cutting import write_index as write_index
    from egptlib.scenes._dsec import cut_dsec as cut_dsec
    from egptlib.scenes._dsec import cut_sequence as cut_sequence
    from egptlib.scenes._dsec import find_sequences as find_sequences
    from egptlib.scenes._dsec import write_dsec_sequence as write_dsec_sequence
    from egptlib.scenes._evqa import is_evqa as is_evqa
    from egptlib.scenes._evqa import make_evqa as make_evqa
    from egptlib.scenes._folder import SceneFolder as SceneFolder
    from egptlib.scenes._folder import open_scenes as open_scenes
    from egptlib.scenes._index import INDEX_NAME as INDEX_NAME
    from egptlib.scenes._questions import QUESTIONS as QUESTIONS
    from egptlib.scenes._questions import load_questions as load_questions
    from egptlib.scenes._recording import make_scenes as make_scenes
    from egptlib.scenes._rendering import event_images as event_images
    from egptlib.scenes._scene import Scene as Scene
    from egptlib.scenes._simulate import EventSimulator as EventSimulator
    from egptlib.scenes._simulate import simulate_events as simulate_events
    from egptlib.scenes._summary import EventSummary as EventSummary
    from egptlib.scenes._summary import summarize_events as summarize_events
    from egptlib.scenes._talk2event import is_talk2event as is_talk2event
    from egptlib.scenes._talk2event import make_talk2event as make_talk2event
    from egptlib.scenes._video import FrameSampling as FrameSampling
    from egptlib.scenes._video import frame_indices as frame_indices
    from egptlib.scenes._video import read_frames as read_frames
    from egptlib.scenes._video import write_video as write_video
    from egptlib.scenes.events import EventFile as EventFile
    from egptlib.scenes.events import Events as Events
    from egptlib.scenes.events import load_events as load_events
    from egptlib.scenes.events import save_events as save_events
    from egptlib.scenes.streets._answers import MOVING_SLOTS as MOVING_SLOTS
    from egptlib.scenes.streets._answers import SLOT_QUESTIONS as SLOT_QUESTIONS
    from egptlib.scenes.streets._answers import SLOTS as SLOTS
    from egptlib.scenes.streets._answers import TOLD_TOGETHER as TOLD_TOGETHER
    from egptlib.scenes.streets._answers import find_slot as find_slot
    from egptlib.scenes.streets._answers import phrase_of as phrase_of
    from egptlib.scenes.streets._answers import read_slots as read_slots
    from egptlib.scenes.streets._answers import slot_values as slot_values
    from egptlib.scenes.streets._make import make_streets as make_streets

_NAMES = {
    "_check": ("Problem", "check_folder"),
    "_check_recordings": ("check_scenes",),
    "_clips": ("make_clips",),
    "_cutting": ("CutReport", "parse_window", "write_index"),
    "_dsec": ("cut_dsec", "cut_sequence", "find_sequences", "write_dsec_sequence"),
    "events": ("EventFile", "Events", "load_events", "save_events"),
    "_evqa": ("is_evqa", "make_evqa"),
    "_folder": ("SceneFolder", "open_scenes"),
    "_index": ("INDEX_NAME",),
    "_questions": ("QUESTIONS", "load_questions"),
    "_recording": ("make_scenes",),
    "_rendering": ("event_images",),
    "_scene": ("Scene",),
    "_simulate": ("EventSimulator", "simulate_events"),
    "_summary": ("EventSummary", "summarize_events"),
    "_talk2event": ("is_talk2event", "make_talk2event"),
    "streets._make": ("make_streets",),
    "streets._answers": (
        *("MOVING_SLOTS", "SLOT_QUESTIONS", "SLOTS", "TOLD_TOGETHER"),
        *("find_slot", "phrase_of", "read_slots", "slot_values"),
    ),
    "_video": ("FrameSampling", "frame_indices", "read_frames", "write_video"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
