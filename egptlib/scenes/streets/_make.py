"""`streets`: procedural driving sequences with exact ground truth, written as DSEC is and cut as DSEC is."""

import math
import re
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from egptlib.scenes._cutting import cut_settings, is_cut, write_index
from egptlib.scenes._dsec import cut_sequence, write_dsec_sequence
from egptlib.scenes._scene import Scene
from egptlib.scenes._simulate import EventSimulator, log_intensity
from egptlib.scenes.events import Events
from egptlib.scenes.streets._answers import Facts, Vehicle, answers, slots
from egptlib.scenes.streets._render import HEIGHT, WIDTH, StreetRenderer
from egptlib.scenes.streets._world import World, sample_world, street_name

RENDER_FPS = 60  # the event rate is within 3 % of that of rendering at 400 frames a second
VIDEO_FPS = 20
INSTANTS_PER_SECOND = 4  # how often it is recorded who is visible
MIN_PIXELS = 300  # fewer visible pixels than this, of 307,200, do not count as visible
SEQUENCE_SECONDS = 2.0
WINDOW_SECONDS = 1.0
_MOST_SEQUENCES = 1_000_000  # of a split
_FIRST_SEED = {"train": 0, "test": _MOST_SEQUENCES}
FIRST_FREE_SEED = len(_FIRST_SEED) * _MOST_SEQUENCES
"""From here on no seed is that of a sequence of either split."""


def make_streets(
    out: str | Path,
    split: str = "test",
    num_sequences: int = 8,
    *,
    seconds: float = SEQUENCE_SECONDS,
    window_us: int = round(1e6 * WINDOW_SECONDS),
    workers: int = 2,
) -> Path:
    """Render sequences, simulate their events, and cut them to a dataset folder.

    Sequence i of a split is the same for every `num_sequences`: a larger set begins with the smaller one. No
    seed is in both splits. A run that was stopped goes on where it was.

    Args:
        out: the dataset folder to make, in the users' format (see data/README.md).
        split: "train" or "test".
        num_sequences: how many; a sequence of 2 s gives three half-overlapping windows of 1 s.
        seconds: length of a sequence.
        window_us: length of a window in microseconds.
        workers: processes.

    Returns:
        The folder.

    Raises:
        ValueError: a split that is neither train nor test, or fewer than one or more than a million sequences.
    """
    if split not in _FIRST_SEED:
        raise ValueError(f"streets: split must be 'train' or 'test', got {split!r}")
    if not 1 <= num_sequences <= _MOST_SEQUENCES:
        raise ValueError(f"streets: num_sequences must be from 1 to {_MOST_SEQUENCES}, got {num_sequences}")
    out = Path(out)
    settings = cut_settings(window_us)
    indices = [i for i in range(num_sequences) if not is_cut(street_name(split, i), out, settings)]
    import joblib  # only who makes scenes needs it

    make = joblib.delayed(partial(_make_sequence, out=out, split=split, seconds=seconds, window_us=window_us))
    made = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(make(index) for index in indices)
    for _ in tqdm(made, total=len(indices), desc=f"streets {split}", unit="sequence", disable=None):
        pass
    write_index(out)
    return out


def _make_sequence(index: int, *, out: Path, split: str, seconds: float, window_us: int) -> None:
    """Write one sequence in DSEC's layout, cut it into `out`, and remove it: uncut it takes 40 MB."""
    cv2.setNumThreads(1)
    seed, start_us = _seed_and_start(split, index)
    renderer = StreetRenderer(sample_world(seed, seconds))
    frames, events = _record(renderer, seed, start_us, seconds, seconds)
    times = start_us + np.arange(len(frames), dtype=np.int64) * (1_000_000 // VIDEO_FPS)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".sequence-") as folder:
        sequence = write_dsec_sequence(
            Path(folder) / street_name(split, index),
            events,
            frames,
            times,
            metadata={"events": "simulated"},
            png_level=0,
        )

        def annotate(_: str, window_start: int, window_stop: int) -> dict:
            facts = facts_from(renderer, (window_start - start_us) / 1e6, (window_stop - start_us) / 1e6)
            return {"qa": answers(facts), "slots": slots(facts)}

        cut_sequence(sequence, out, window_us=window_us, annotate=annotate)


def _record(
    renderer: StreetRenderer, seed: int, start_us: int, seconds: float, until: float
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """The frames and the events of a street of so many seconds, up to a second of it."""
    simulator = EventSimulator(HEIGHT, WIDTH, seed=seed)
    frames, parts = [], []
    for k in range(math.ceil(until * RENDER_FPS) + 1):
        picture = renderer.frame(k / RENDER_FPS)
        parts.append(simulator.step(log_intensity(picture), start_us + k * 1e6 / RENDER_FPS))
        if k % (RENDER_FPS // VIDEO_FPS) == 0 and k < seconds * RENDER_FPS:
            frames.append(picture)
    return frames, {key: np.concatenate([part[key] for part in parts]) for key in ("x", "y", "t", "p")}


def with_events(scene: Scene, seconds: float = SEQUENCE_SECONDS) -> Scene | None:
    """A scene with its raw events; None where there are none.

    The folder of `streets` does not keep them: they are simulated again, which takes some seconds.
    """
    if scene.event_path is not None or scene.stream is not None:
        return scene
    if not re.fullmatch(rf"streets_({'|'.join(_FIRST_SEED)})_\d+", scene.sequence):
        return None
    _, split, index = scene.sequence.split("_")
    seed, start_us = _seed_and_start(split, int(index))
    first, last = scene.metadata["start_us"], scene.metadata["stop_us"]
    renderer = StreetRenderer(sample_world(seed, seconds))
    _, events = _record(renderer, seed, start_us, seconds, (last - start_us) / 1e6)
    inside = (events["t"] >= first) & (events["t"] < last)
    return replace(scene, stream=Events({key: values[inside] for key, values in events.items()}))


def _seed_and_start(split: str, index: int) -> tuple[int, int]:
    """A sequence's seed and the time of its first frame, which is not zero, as it is not in DSEC either."""
    return _FIRST_SEED[split] + index, 49_000_000_000 + index * 10_000_000


def street_at(sequence: str, time_us: int, seconds: float = SEQUENCE_SECONDS) -> tuple[StreetRenderer, float]:
    """Build the street of a sequence again, from its name.

    Returns:
        Its renderer, and `time_us` (on the clock of the sequence) in seconds since its first frame.
    """
    _, split, index = sequence.split("_")
    seed, start_us = _seed_and_start(split, int(index))
    return StreetRenderer(sample_world(seed, seconds)), (time_us - start_us) / 1e6


def facts_from(renderer: StreetRenderer, start: float, stop: float) -> Facts:
    """What is visible in [start, stop), in seconds since the street's first frame (see `window_facts`)."""
    return window_facts(renderer.world, _who_is_seen(renderer, start, stop), start, stop)


def _who_is_seen(renderer: StreetRenderer, start: float, stop: float) -> dict[float, dict[int, float]]:
    """Time in [start, stop) -> the things of which at least `MIN_PIXELS` are visible then -> metres away."""
    first, last = (math.ceil(time * INSTANTS_PER_SECOND) for time in (start, stop))
    return {
        k / INSTANTS_PER_SECOND: {
            thing: metres
            for thing, (pixels, metres) in renderer.visible(k / INSTANTS_PER_SECOND).items()
            if pixels >= MIN_PIXELS
        }
        for k in range(first, last)
    }


def window_facts(world: World, seen: dict[float, dict[int, float]], start: float, stop: float) -> Facts:
    """What is visible in [start, stop).

    A vehicle or pedestrian counts when it is visible (occlusion counted) at no fewer than half of the window's
    instants. Vehicles are ordered by their mean distance.

    Args:
        world: the street.
        seen: time -> index of a visible thing -> its distance.
        start, stop: the window, on the clock of `seen`.
    """
    instants = [who for time, who in seen.items() if start <= time < stop]
    distances = {thing: [who[thing] for who in instants if thing in who] for thing in set().union(*instants)}
    visible = [thing for thing, metres in distances.items() if 2 * len(metres) >= len(instants)]
    things = [world.things[i] for i in sorted(visible, key=lambda i: float(np.mean(distances[i])))]
    return Facts(
        surroundings=world.surroundings,
        time_of_day=world.time_of_day,
        ego_motion=world.ego_motion,
        lanes=world.lanes,
        vehicles=tuple(Vehicle(t.kind, t.color_name, t.motion) for t in things if t.kind != "pedestrian"),
        pedestrians=sum(thing.kind == "pedestrian" for thing in things),
    )
