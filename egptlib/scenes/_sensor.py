"""`SensorClock`: a scene replayed as its sensors delivered it; nothing is handed out before its time."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from egptlib.scenes._rendering import event_images
from egptlib.scenes._scene import Scene


class SensorClock:
    """Replays the window of a scene, from its start to the moment of its last frame.

    Sensor times are seconds since the window's start ("start_us" of the scene's metadata, else its first event). A
    frame is there from its timestamp on (index in the clip over the clip's frames a second; where no rate is known, the
    clip is taken to last as long as the events). Waiting sleeps.

    Args:
        scene: from `open_scenes`; its pictures of the whole window are not looked at. Raw events are read here, once.
        speed: sensor seconds that pass in a second.
        now, sleep: the clock that is followed, in seconds, and how it is waited for.

    Attributes:
        frame_times: float [num_frames], when each of the scene's frames is exposed; never decreasing.
        length: when the last one is: the window closes then.
        now: as given.
        origin: what it said at `start`.

    Raises:
        ValueError: a speed that is not positive, or a scene whose frames have no times.
    """

    def __init__(
        self,
        scene: Scene,
        speed: float = 1.0,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not speed > 0:
            raise ValueError(f"speed: expected more than 0, found {speed}")
        self.scene, self.speed, self.now, self._sleep = scene, speed, now, sleep
        events = scene.events()
        self._events = events and events.in_order()
        times = None if self._events is None else self._events["t"]
        self._start_us = int(scene.metadata.get("start_us", 0 if times is None or not len(times) else times[0]))
        total, rate = scene.metadata.get("clip") or (None, None)
        if rate is None:
            if total is None or times is None or not len(times) or times[-1] <= self._start_us:
                raise ValueError(
                    f"scene {scene.id}: neither its clip's frames a second nor its events' times are known"
                )
            rate = total / (1e-6 * float(times[-1] - self._start_us))
        self.frame_times = np.array(scene.frame_indices or range(len(scene.frames)), dtype=float) / rate
        if np.any(np.diff(self.frame_times) < 0):
            raise ValueError(f"scene {scene.id}: expected frames in the order of time, found {scene.frame_indices}")
        self.length = float(self.frame_times[-1])
        self.start()

    @property
    def event_times(self) -> np.ndarray:
        """float [N], when each of the window's events comes, also those after its last frame; empty without events."""
        return np.empty(0) if self._events is None else (self._events["t"] - self._start_us) / 1e6

    def start(self) -> None:
        """The window opens now."""
        self.origin = self.now()

    def time(self) -> float:
        """Sensor seconds since the window's start."""
        return (self.now() - self.origin) * self.speed

    def stamp(self, time: Any) -> Any:
        """What `now` says at a sensor time, or at several."""
        return self.origin + time / self.speed

    def wait(self, time: float) -> None:
        """Sleep until a sensor time, if it has not come yet."""
        while (left := self.stamp(time) - self.now()) > 0:
            self._sleep(left)

    def frame(self, index: int) -> Scene:
        """The scene with this frame alone, and without event pictures.

        Raises:
            ValueError: it is not exposed yet.
        """
        self._check(self.frame_times[index], f"frame {index}")
        return replace(
            self.scene, frames=self.scene.frames[index : index + 1], event_images=[], event_path=None, stream=None
        )

    def window(self, until: float) -> Scene:
        """The scene as known up to a sensor time: its pictures drawn from the events before it, its frames up to it.

        Raises:
            ValueError: that time has not come, the scene has no raw events, or too few to draw.
        """
        self._check(until, f"what was seen until {until:.3f} s")
        scene, events = self.scene, self._events
        if events is None:
            raise ValueError(
                f"scene {scene.id}: expected raw events (event_npy/) to draw a part of its window, found none"
            )
        count = int(np.searchsorted(events["t"], self._start_us + round(1e6 * until)))
        part = events.take(slice(count))
        order: Any = scene.rendering if scene.rendering in ("last", "polarity") else "last"
        seen = int(np.searchsorted(self.frame_times, until, side="right"))
        return replace(
            scene,
            event_images=event_images(part, len(scene.event_images), order),
            frames=scene.frames[:seen],
            frame_indices=scene.frame_indices[:seen],
            event_path=None,
            stream=part,
        )

    def _check(self, time: float, what: str) -> None:
        if self.now() < self.stamp(time):
            raise ValueError(f"scene {self.scene.id}: {what} is not there yet, at {self.time():.3f} s")
