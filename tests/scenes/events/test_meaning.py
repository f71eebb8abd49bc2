"""What polarities and times mean: the same everywhere events come in, and refused by name where they do not tell."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest

from egptlib.scenes import event_images, load_events, save_events, write_dsec_sequence
from tests.scenes.conftest import random_events

Reader = Callable[[Path, dict], dict]


def as_dict(path: Path, events: dict) -> dict:
    np.save(path / "a.npy", np.array(events, dtype=object), allow_pickle=True)
    return load_events(path / "a.npy")


def as_records(path: Path, events: dict) -> dict:
    table = np.empty(len(events["t"]), [(key, values.dtype) for key, values in events.items()])
    for key, values in events.items():
        table[key] = values
    np.save(path / "r.npy", table)
    return load_events(path / "r.npy")


def as_h5(path: Path, events: dict) -> dict:
    with h5py.File(path / "a.h5", "w") as file:
        for name, values in events.items():
            file[f"events/{name}"] = values
    return load_events(path / "a.h5")


def as_saved(path: Path, events: dict) -> dict:
    save_events(path / "s.npy", events)
    return load_events(path / "s.npy")


def as_sequence(path: Path, events: dict) -> dict:
    start = int(events["t"][0]) if abs(events["t"][0]) < 2e9 else 0  # DSEC stores 32 bits
    frames, times = [np.zeros((4, 4, 3), np.uint8)] * 2, [1_000_000 * start, 1_000_000 * start + 50_000]
    write_dsec_sequence(path / "seq", events, frames, times)
    return load_events(path / "seq/events/left/events.h5")


everywhere = pytest.mark.parametrize("read", [as_dict, as_records, as_h5, as_saved, as_sequence])

# negative, positive, type
POLARITIES = [
    (0, 1, "u1"), (0, 1, "?"), (0, 1, "f8"), (0, 255, "u1"), (0, -1, "i1"), (0, 65535, "u2"), (0, 7, "i8"),
    (-1, 1, "i1"), (-1, 1, "i8"), (-1, 1, "f4"), (255, 1, "u1"), (65535, 1, "u2"), (4294967295, 1, "u4"),
    (65535, 1, "i8"), (2**64 - 1, 1, "u8"),
]  # fmt: skip


@everywhere
@pytest.mark.parametrize(("negative", "positive", "dtype"), POLARITIES)
def test_polarity(tmp_path: Path, read: Reader, negative: int, positive: int, dtype: str) -> None:
    events = random_events(200)
    p = np.where(events["p"] == 1, np.array(positive, dtype), np.array(negative, dtype))
    loaded = read(tmp_path, events | {"p": p})["p"]
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, events["p"])
    orders: tuple[Literal["last", "polarity"], ...] = ("last", "polarity")
    for order in orders:
        image = event_images(events | {"p": p}, 2, order)[1]
        np.testing.assert_array_equal(image, event_images(events, 2, order)[1])


@everywhere
@pytest.mark.parametrize(
    "levels", [[1, 2], [2], [-1], [255], [-1, 0, 1], [0, 1, 255], [0, 1, 2], [3, -1], [0.0, 0.5, 1.0]]
)
def test_polarity_that_does_not_tell_is_refused_by_name(tmp_path: Path, read: Reader, levels: list) -> None:
    events = random_events(30) | {"p": np.resize(np.array(levels), 30)}
    with pytest.raises(ValueError, match=r"(npy|h5|seq): field 'p' holds"):
        read(tmp_path, events)
    with pytest.raises(ValueError, match="events: field 'p' holds"):
        event_images(events)


@pytest.mark.parametrize(("only", "expected"), [(0, 0), (1, 1)])
def test_one_polarity_alone(tmp_path: Path, only: int, expected: int) -> None:
    events = random_events(9) | {"p": np.full(9, only)}
    assert set(as_dict(tmp_path, events)["p"].tolist()) == {expected}


@everywhere
@pytest.mark.parametrize("start", [0.0, -3.5, 1_506_117_894.6])
def test_float_seconds_keep_their_microseconds(tmp_path: Path, read: Reader, start: float) -> None:
    events = random_events(5000)
    loaded = read(tmp_path, events | {"t": start + events["t"] / 1e6})
    np.testing.assert_array_equal(loaded["t"], round(start * 1e6) + events["t"])


@pytest.mark.parametrize("read", [as_dict, as_records, as_h5])
@pytest.mark.parametrize(
    ("start", "per", "dtype", "told"),
    [
        (43_200, 1, "f4", r"steps of 3,906 us at 43200\.1 s: events within one have one time"),
        (43_200, 1e6, "f4", r"steps of 4,096 us at 4\.32001e\+10 us"),
        (2, 1, "f2", "steps of 1,953 us at 2"),
        (4_000, 1, "f4", ""),
        (43_200, 1, "f8", ""),
    ],
)
def test_times_in_short_floats_tell_where_they_are_coarse(
    tmp_path: Path, read: Reader, start: int, per: float, dtype: str, told: str
) -> None:
    """float32 seconds at 12 hours put all events of 3.9 ms at one time, and nothing said so."""
    events = random_events(100) | {"t": ((start + np.linspace(0, 0.1, 100)) * per).astype(dtype)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(tmp_path, events)
    assert [bool(re.search(f"field 't' has {told}", str(each.message))) for each in caught] == [True] * bool(told)


@pytest.mark.parametrize("read", [as_dict, as_records, as_h5, as_saved])
def test_nanoseconds_since_1970_and_whole_floats(tmp_path: Path, read: Reader) -> None:
    events = random_events(50)
    for dtype in ("i8", "u8"):
        loaded = read(tmp_path, events | {"t": (1_600_000_000_000_000_000 + 1000 * events["t"] + 999).astype(dtype)})
        np.testing.assert_array_equal(loaded["t"], 1_600_000_000_000_000 + events["t"])
    np.testing.assert_array_equal(read(tmp_path, events | {"t": events["t"].astype(float)})["t"], events["t"])


def test_windows_of_unsigned_nanoseconds_begin_where_they_should(tmp_path: Path) -> None:
    """Ten events a microsecond: numpy looks unsigned times up in float64, which here tells 256 ns apart."""
    start, t = 1_732_000_000_000_000_000, np.arange(0, 1_000_000, 100)
    events = random_events(len(t)) | {"t": (start + t).astype("u8")}
    as_h5(tmp_path, events)
    for first, stop in ((50, 75), (123, 124), (990, 2000)):
        inside = (t >= first * 1000) & (t < stop * 1000)
        found = load_events(tmp_path / "a.h5", start // 1000 + first, start // 1000 + stop)
        np.testing.assert_array_equal(found["t"], (start + t[inside]) // 1000)
        np.testing.assert_array_equal(found["x"], events["x"][inside])


def test_a_unit_that_is_given_is_taken(tmp_path: Path) -> None:
    events = random_events(50)
    for unit, times in {"s": events["t"] / 1e6, "ms": events["t"] / 1e3, "ns": events["t"] * 1000}.items():
        np.save(tmp_path / "a.npy", np.array(events | {"t": times}, dtype=object), allow_pickle=True)
        np.testing.assert_array_equal(load_events(tmp_path / "a.npy", time_unit=unit)["t"], events["t"])  # type: ignore[arg-type]


@everywhere
@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.uint64(2**63) + np.arange(9, dtype=np.uint64), "no time in"),
        (np.linspace(0, 50_000, 9) + 0.25, "fractions over a span of 50000"),
        (np.array([0, np.nan, *range(7)]), "not finite"),
        (np.array([0, np.inf, *range(7)]), "not finite"),
        (np.arange(9) * 1e30, "no time in"),
    ],
)
def test_times_that_are_none_are_refused_by_name(tmp_path: Path, read: Reader, times: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"(npy|h5|seq): field 't' holds .*{message}"):
        read(tmp_path, random_events(9) | {"t": times})


@everywhere
@pytest.mark.parametrize("x", [[-1, 2], [65536, 0], [0.5, 1.0], [np.nan, 1.0]])
def test_coordinates_that_are_no_pixels_are_refused_by_name(tmp_path: Path, read: Reader, x: list) -> None:
    events = random_events(2) | {"x": np.array(x)}
    with pytest.raises(ValueError, match=r"field 'x' (leaves|holds)"):
        read(tmp_path, events)
    with pytest.raises(ValueError, match=r"events: field 'x' (leaves|holds)"):
        event_images(events)
