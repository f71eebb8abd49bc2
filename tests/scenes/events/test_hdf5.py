"""Event streams in HDF5: any window equals a mask over all events, whatever wrote the file; nothing outside is read."""

import contextlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egptlib.scenes import EventFile, load_events, write_dsec_sequence
from egptlib.scenes.events._ecf import decode_ecf
from tests.scenes.conftest import random_events
from tests.scenes.events.encoders import ecf, long_recording


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A DSEC event file with many equal times, silent milliseconds, and a clock that does not start at zero."""
    rng = np.random.default_rng(3)
    t = np.sort(rng.choice(rng.integers(0, 300_000, 700), 4000)) + 7_000_123
    events = random_events(4000) | {"t": t}
    folder = tmp_path_factory.mktemp("dsec") / "seq"
    write_dsec_sequence(folder, events, [np.zeros((4, 4, 3), np.uint8)] * 2, [int(t[0]) - 500, int(t[0]) + 49_500])
    return folder / "events" / "left" / "events.h5", events


@given(st.integers(-5_000, 305_000), st.integers(0, 120_000))
def test_h5_window_equals_a_mask_over_all_events(recording: tuple[Path, dict], start: int, length: int) -> None:
    path, events = recording
    start += 7_000_123
    inside = (events["t"] >= start) & (events["t"] < start + length)
    loaded = load_events(path, start, start + length)
    for key, values in events.items():
        np.testing.assert_array_equal(loaded[key], values[inside])


def test_h5_window_bounds_on_events_themselves(recording: tuple[Path, dict]) -> None:
    path, events = recording
    with EventFile(path) as file:
        assert len(file) == 4000
        np.testing.assert_array_equal(file.window()["t"], events["t"])
        for bound in np.unique(events["t"])[::37]:
            np.testing.assert_array_equal(file.window(int(bound))["t"], events["t"][events["t"] >= bound])
            np.testing.assert_array_equal(file.window(None, int(bound))["t"], events["t"][events["t"] < bound])


def test_h5_millisecond_table_as_dsec_defines_it(recording: tuple[Path, dict]) -> None:
    """t[ms_to_idx[ms]] >= 1000 ms and t[ms_to_idx[ms] - 1] < 1000 ms, t relative to t_offset; stored in 32 bits."""
    with h5py.File(recording[0]) as file:
        t, table = file["events/t"], file["ms_to_idx"][()].astype(int)
        assert t.dtype == np.uint32
        assert "32001" in dict(t._filters)  # blosc's registered number
        times = t[()]
        for ms, index in enumerate(table):
            assert index == len(times) or times[index] >= 1000 * ms
            assert index == 0 or times[index - 1] < 1000 * ms
        np.testing.assert_array_equal(times + int(file["t_offset"][()]), recording[1]["t"])


def test_h5_that_is_something_else(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events/x"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"a\.h5: holds no event stream in a known layout"):
        load_events(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes(b"not hdf5 at all")
    with pytest.raises(ValueError, match=r"b\.h5: not a readable HDF5 file"):
        load_events(tmp_path / "b.h5")


def write_h5(path: Path, events: dict, place: str = "events", **more: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in events.items():
            file[f"{place}/{name}"] = values
        for name, value in more.items():
            file[name] = value
    return path


def assert_windows(path: Path, t: np.ndarray, length: int = 7000, step: int = 3001) -> None:
    """Every window holds the times that a mask over all of them gives, in the order of the file."""
    with EventFile(path) as file:
        np.testing.assert_array_equal(file.window()["t"], t)
        for start in range(int(t.min()) - length, int(t.max()) + length, step):
            inside = (t >= start) & (t < start + length)
            np.testing.assert_array_equal(file.window(start, start + length)["t"], t[inside])


def test_unsorted_times_and_a_table_that_contradicts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib.scenes.events._source.ROWS_PER_BLOCK", 300)
    events = random_events(2000, span_us=100_000)
    table = np.searchsorted(events["t"], np.arange(101) * 1000)
    swapped = events["t"].copy()
    swapped[[500, 501, 20, 1900]] = swapped[[501, 500, 1900, 20]]
    assert_windows(write_h5(tmp_path / "a.h5", events | {"t": swapped}, ms_to_idx=table, t_offset=0), swapped)
    late = events["t"] + 5_000_000
    assert_windows(write_h5(tmp_path / "b.h5", events | {"t": late}, ms_to_idx=table, t_offset=0), late)
    assert_windows(write_h5(tmp_path / "c.h5", events), events["t"])


@pytest.mark.parametrize("offset", [5, np.array([5]), np.array([5], np.uint64), np.float64(5)])
def test_offset_of_any_form_is_added(tmp_path: Path, offset: Any) -> None:
    events = random_events(50)
    path = write_h5(tmp_path / "a.h5", events | {"t": events["t"].astype("u4")}, t_offset=offset)
    np.testing.assert_array_equal(load_events(path)["t"], events["t"] + 5)
    path = write_h5(tmp_path / "b.h5", events | {"t": events["t"] / 1e6 + 1e-7}, t_offset=offset)
    np.testing.assert_array_equal(load_events(path)["t"], events["t"] + 5)


def test_offset_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.h5: 't_offset' is int64 \(2,\)"):
        load_events(write_h5(tmp_path / "a.h5", random_events(5), t_offset=np.array([1, 2])))
    with pytest.raises(ValueError, match=r"b\.h5: 't_offset' is in nanoseconds"):
        load_events(write_h5(tmp_path / "b.h5", random_events(5), t_offset=np.uint64(2**63 - 10)))


def test_only_a_later_part_shows_minus_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib.scenes.events._source.ROWS_PER_BLOCK", 100)
    events = random_events(1000)
    signed = np.where(np.arange(1000) < 900, 1, 2 * events["p"].astype(int) - 1)
    path = write_h5(tmp_path / "a.h5", events | {"p": signed.astype(np.int8)})
    half = int(events["t"][500])
    assert load_events(path, stop_us=half)["p"].all()
    np.testing.assert_array_equal(load_events(path)["p"], signed > 0)
    np.testing.assert_array_equal(load_events(path, start_us=half)["p"], signed[events["t"] >= half] > 0)
    negative = np.where(np.arange(1000) < 500, -1, 1)
    path = write_h5(tmp_path / "b.h5", events | {"p": negative})
    assert not load_events(path, stop_us=half)["p"].any()


def test_layouts_of_the_datasets(tmp_path: Path) -> None:
    """Written as their publications describe them; DSEC's own is above."""
    events = random_events(700)
    x, y, t, p = (events[key] for key in "xytp")
    files = {}

    def write(name: str) -> h5py.File:
        files[name] = tmp_path / f"{name}.h5"
        return h5py.File(files[name], "w")

    with write("m3ed") as file:  # microseconds from the start of the recording, two cameras
        for key, values in events.items():
            file.create_dataset(f"prophesee/left/{key}", data=values, compression="lzf")
            file[f"prophesee/right/{key}"] = values[:10]
        file["prophesee/left/ms_map_idx"] = np.searchsorted(t, np.arange(1000) * 1000)
        file["prophesee/left/calib/resolution"] = np.array([1280, 720])
    with write("mvsec") as file:  # seconds since 1970, polarity -1/+1
        file["davis/left/events"] = np.stack([x, y, 1506117894.6 + t / 1e6, 2.0 * p - 1], axis=1)
    with write("rvt") as file:  # DSEC's fields without a table, and the sensor's size
        for key, values in events.items():
            file[f"events/{key}"] = values
        file["events/height"], file["events/width"] = 240, 304
    with write("e2vid") as file:  # seconds, bool
        for key, values in {"xs": x, "ys": y, "ts": t / 1e6, "ps": p.astype(bool)}.items():
            file[f"events/{key}"] = values
    with write("metavision") as file:  # records, as Metavision's HDF5 holds them when it is not ECF-compressed
        records = np.zeros(700, [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
        for key, values in events.items():
            records[key] = values
        file["CD/events"] = records
        file.attrs["geometry"] = "1280x720"

    sizes = {"m3ed": (720, 1280), "rvt": (240, 304), "metavision": (720, 1280)}
    for name, path in files.items():
        loaded = load_events(path)
        for key, values in events.items():
            expected = values + 1506117894600000 if (name, key) == ("mvsec", "t") else values
            np.testing.assert_array_equal(loaded[key], expected, err_msg=f"{name} {key}")
        assert loaded.size == sizes.get(name)


def write_metavision(path: Path, events: dict, packings: list[int], wide: int = 1000) -> Path:
    """Metavision's file: records whose chunks are stored as ECF has them, the last one filled up."""
    kind = np.dtype([("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
    count = len(events["t"])
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((wide,))
        properties.set_filter(0x8ECF, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((count,), (h5py.h5s.UNLIMITED,))
        group = file.create_group("CD")
        dataset = h5py.h5d.create(group.id, b"events", h5py.h5t.py_create(kind), space, properties)
        for number, start in enumerate(range(0, count, wide)):
            places = np.minimum(np.arange(start, start + wide), count - 1)
            chunk = {key: values[places] for key, values in events.items()}
            dataset.write_direct_chunk((start,), ecf(chunk, packings[number % len(packings)]), 0)
        file.attrs["geometry"] = "640x480"
    return path


@pytest.mark.parametrize("packings", [[0], [1], [2], [2, 0, 1]])
def test_ecf(tmp_path: Path, packings: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib.scenes.events._source.ROWS_PER_BLOCK", 1700)
    events = long_recording(4321)
    path = write_metavision(tmp_path / "a.hdf5", events, packings)
    loaded = load_events(path)
    for key, values in events.items():
        np.testing.assert_array_equal(loaded[key], values, err_msg=key)
    assert loaded.size == (480, 640)
    assert_windows(path, events["t"], 900_000, 3_300_001)


@given(st.data())
@settings(max_examples=80)
def test_damaged_ecf_is_told_or_gives_events(data: st.DataObject) -> None:
    events = {key: values[:300] for key, values in long_recording(400).items()}
    chunk = bytearray(ecf(events, data.draw(st.integers(0, 2))))
    for _ in range(data.draw(st.integers(1, 5))):
        chunk[data.draw(st.integers(0, len(chunk) - 1))] = data.draw(st.integers(0, 255))
    del chunk[data.draw(st.integers(1, len(chunk))) :]
    with contextlib.suppress(ValueError):
        columns = decode_ecf(bytes(chunk))
        assert {len(values) for values in columns.values()} == {int.from_bytes(chunk[:4], "little") >> 2}


@pytest.mark.parametrize("field", ["events/x", "events/t", "events/p"])
@pytest.mark.parametrize("kind", ["virtual", "external storage"])
def test_no_data_outside_the_file_are_read(tmp_path: Path, kind: str, field: str) -> None:
    events = random_events(64)
    write_h5(tmp_path / "other.h5", events)
    path = write_h5(tmp_path / "a.h5", events)
    (tmp_path / "raw.bin").write_bytes(bytes(2 * 64))
    with h5py.File(path, "r+") as file:
        del file[field]
        if kind == "virtual":
            layout = h5py.VirtualLayout((64,), "u2")
            layout[...] = h5py.VirtualSource("other.h5", field, (64,))
            file.create_virtual_dataset(field, layout)
        else:
            file.create_dataset(field, (64,), "u2", external=[(str(tmp_path / "raw.bin"), 0, 128)])
    with pytest.raises(ValueError, match=rf"a\.h5: field '/{field}' stands in another file"):
        load_events(path)


@pytest.mark.parametrize("field", ["events/x", "events/t", "events/p", "t_offset", "events"])
@pytest.mark.parametrize("kind", ["external", "soft", "soft within the file"])
def test_only_hard_links_are_followed(tmp_path: Path, kind: str, field: str) -> None:
    events = random_events(64)
    write_h5(tmp_path / "other.h5", events, t_offset=3)
    path = write_h5(tmp_path / "a.h5", events, t_offset=3)
    with h5py.File(path, "r+") as file:
        file.move(field, "elsewhere")
        if kind == "external":
            file[field] = h5py.ExternalLink("other.h5", f"/{field}")
        elif kind == "soft":
            file["outside"] = h5py.ExternalLink("other.h5", "/")
            file[field] = h5py.SoftLink(f"/outside/{field}")
        else:
            file[field] = h5py.SoftLink("/elsewhere")
    with pytest.raises(ValueError, match=rf"a\.h5: field '{field}.*' is a soft or external link"):
        load_events(path)
