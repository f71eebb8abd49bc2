"""Recordings of event cameras and datasets: one face, one module a family of formats."""

from egptlib.scenes.events._fields import Events, TimeUnit, check_events, is_positive, pixels, sensor_size
from egptlib.scenes.events._file import EventFile, load_events
from egptlib.scenes.events._npy import save_events

__all__ = [
    "EventFile",
    "Events",
    "TimeUnit",
    "check_events",
    "is_positive",
    "load_events",
    "pixels",
    "save_events",
    "sensor_size",
]
