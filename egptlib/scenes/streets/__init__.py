"""How `streets` draws and tells its streets: for what needs the ground truth, not a folder of finished scenes."""

from egptlib.scenes.streets._answers import answers, reword, slots
from egptlib.scenes.streets._make import (
    FIRST_FREE_SEED,
    SEQUENCE_SECONDS,
    VIDEO_FPS,
    WINDOW_SECONDS,
    facts_from,
    street_at,
    with_events,
)
from egptlib.scenes.streets._render import StreetRenderer
from egptlib.scenes.streets._world import COLORS, KINDS, MOTIONS, sample_world

__all__ = [
    "COLORS",
    "FIRST_FREE_SEED",
    "KINDS",
    "MOTIONS",
    "SEQUENCE_SECONDS",
    "VIDEO_FPS",
    "WINDOW_SECONDS",
    "StreetRenderer",
    "answers",
    "facts_from",
    "reword",
    "sample_world",
    "slots",
    "street_at",
    "with_events",
]
