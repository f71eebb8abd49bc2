"""Reading events: equal to numpy's own reader on honest files, and nothing else gets in."""

import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format

from egptlib.scenes import EventFile, load_events, save_events
from tests.scenes.conftest import random_events


def save_dict(path: Path, record: Any) -> Path:
    np.save(path, np.array(record, dtype=object), allow_pickle=True)
    return path


def save_pickle(path: Path, payload: bytes) -> Path:
    """Write an .npy whose pickled part is `payload`."""
    with path.open("wb") as file:
        npy_format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(payload)
    return path


@pytest.mark.parametrize("name", ["samples/eventgpt_sample1.npy", "samples/dsec_interlaken_00_d/000069.npy",
                                  "golden/eventgpt_5f/events.npy"])  # fmt: skip
def test_recordings_equal_numpys_reader(shared: Path, name: str) -> None:
    events = load_events(shared / name)
    trusted = np.load(shared / name, allow_pickle=True).item()
    for key, dtype in (("x", np.uint16), ("y", np.uint16), ("t", np.int64), ("p", np.uint8)):
        assert events[key].dtype == dtype
        assert type(events[key]) is np.ndarray
        np.testing.assert_array_equal(events[key], trusted[key])


@pytest.mark.parametrize("dtype", ["int64", "uint64", "uint16", ">i8"])
def test_time_becomes_int64(tmp_path: Path, dtype: str) -> None:
    events = random_events(50, span_us=60_000)
    path = save_dict(tmp_path / "a.npy", {**events, "t": events["t"].astype(dtype)})
    loaded = load_events(path)["t"]
    assert loaded.dtype == np.dtype("int64")
    np.testing.assert_array_equal(loaded, events["t"])


def test_other_entries_of_a_users_file(tmp_path: Path) -> None:
    record = random_events(9) | {"duration_ms": np.float64(1000), "image_indices_in_clip": [0, 1], "note": "x"}
    record |= {"nested": {"deep": [np.arange(3), np.array(["a", "b"])]}, "objects": np.array([1, "a"], dtype=object)}
    np.testing.assert_array_equal(load_events(save_dict(tmp_path / "a.npy", record))["x"], record["x"])


def test_structured_array(tmp_path: Path) -> None:
    events = random_events(20)
    table = np.zeros(20, dtype=[("x", "u2"), ("y", "u2"), ("t", "i8"), ("p", "u1")])
    for key, values in events.items():
        table[key] = values
    np.save(tmp_path / "a.npy", table)
    loaded = load_events(tmp_path / "a.npy")
    for key, values in events.items():
        np.testing.assert_array_equal(loaded[key], values)


def test_save_and_load(tmp_path: Path) -> None:
    events = random_events(100)
    save_events(tmp_path / "a.npy", events, time_start=5)
    trusted = np.load(tmp_path / "a.npy", allow_pickle=True).item()
    assert trusted["num_events"] == 100
    assert trusted["time_start"] == 5
    loaded = load_events(tmp_path / "a.npy", start_us=1000, stop_us=900_000)
    inside = (events["t"] >= 1000) & (events["t"] < 900_000)
    for key, values in events.items():
        np.testing.assert_array_equal(trusted[key], values)
        np.testing.assert_array_equal(loaded[key], values[inside])


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["top", "value", "array"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "ran"
    bad: Any = Malicious(f"touch {mark}")
    record = {"top": bad, "value": random_events(3) | {"x": bad}, "array": {"x": np.array([bad, 1], dtype=object)}}
    path = save_dict(tmp_path / "bad.npy", record[place])
    with pytest.raises(ValueError, match=r"bad\.npy: .*posix\.system"):
        load_events(path)
    assert not mark.exists()
    np.load(path, allow_pickle=True)  # the same file does run its code in a reader that allows it
    assert mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "numpy.load", "numpy.core.multiarray.fromfile", "numpy.f2py.main", "codecs.encode"]
)
def test_other_names_are_refused_by_name(tmp_path: Path, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    payload = b"c" + module.encode() + b"\n" + attribute.encode() + b"\n."
    with pytest.raises(ValueError, match=f"asks for {name.replace('.', '[.]')}"):
        load_events(save_pickle(tmp_path / "bad.npy", payload))


def test_dtype_with_forged_flags_cannot_reach_memory(tmp_path: Path) -> None:
    """An object array whose dtype claims to be plain and whose data are raw bytes, that is, wild pointers."""

    class ForgedDtype:
        def __reduce__(self) -> tuple[Any, ...]:
            return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)

    class ForgedArray:
        def __reduce__(self) -> tuple[Any, ...]:
            from numpy._core.multiarray import _reconstruct

            return _reconstruct, (np.ndarray, (0,), b"b"), (1, (2,), ForgedDtype(), False, b"\x41" * 16)

    payload = pickle.dumps({"x": ForgedArray()}, protocol=4)
    with pytest.raises(ValueError, match=r"bad\.npy: not a readable"):
        load_events(save_pickle(tmp_path / "bad.npy", payload))


def test_calling_ndarray_itself_is_refused(tmp_path: Path) -> None:
    class Raw:
        def __reduce__(self) -> tuple[Any, ...]:
            return np.ndarray, ((10,),)

    with pytest.raises(ValueError, match=r"bad\.npy: not a readable"):
        load_events(save_pickle(tmp_path / "bad.npy", pickle.dumps({"x": Raw()})))


@pytest.mark.parametrize("keep", [0, 5, 40, 200, 0.5, -1])
def test_truncated_file(tmp_path: Path, keep: float) -> None:
    whole = save_dict(tmp_path / "a.npy", random_events(1000)).read_bytes()
    size = round(len(whole) * keep) if isinstance(keep, float) else keep
    (tmp_path / "torn.npy").write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r"torn\.npy: not a readable"):
        load_events(tmp_path / "torn.npy")


@given(st.data())
@settings(max_examples=60)
def test_damaged_bytes_give_events_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    raw = bytearray(save_dict(folder / "a.npy", random_events(20)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.npy").write_bytes(raw)
    try:
        events = load_events(folder / "a.npy")
    except ValueError as error:
        assert "a.npy" in str(error)
    else:
        assert set(events) == {"x", "y", "t", "p"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "'x' is"),
        ({"x": np.zeros(4, np.uint16)}, "differ in length"),
        ({"y": np.array([0, 1, -2])}, "'y' leaves 0..65535"),
        ({"t": np.array(["0", "1", "2"])}, "'t' is <U1"),
        ({"x": np.zeros((3, 1), np.uint16)}, "expected integers"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, change: dict, message: str) -> None:
    path = save_dict(tmp_path / "a.npy", random_events(3) | change)
    with pytest.raises(ValueError, match=rf"a\.npy: field.*{message}|a\.npy: the fields {message}"):
        load_events(path)


def test_missing_field_file_and_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="field 'p' is missing"):
        load_events(save_dict(tmp_path / "a.npy", {key: np.zeros(3, int) for key in "xyt"}))
    with pytest.raises(ValueError, match="holds int; expected a dict"):
        load_events(save_dict(tmp_path / "b.npy", 3))
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        load_events(tmp_path / "none.npy")
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        load_events(tmp_path / "none.h5")
    (tmp_path / "a.bin").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"a\.bin: not a recording of events in a known format"):
        load_events(tmp_path / "a.bin")


def test_one_header_is_parsed_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In CPython 3.11 two threads in `ast` at once, where NumPy's headers go, refuse a sound file now and then."""
    events = random_events(40)
    rows = np.zeros(40, [(name, column.dtype) for name, column in events.items()])
    for name, column in events.items():
        rows[name] = column
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", **events)
    inside, most = [0], [0]

    def watched(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            try:
                return function(*args, **kwargs)
            finally:
                inside[0] -= 1

        return call

    monkeypatch.setattr(npy_format, "read_array_header_1_0", watched(npy_format.read_array_header_1_0))
    monkeypatch.setattr(np, "load", watched(np.load))
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(EventFile, [tmp_path / f"rows.{end}" for end in ("npy", "npz") * 8]))
    assert len(opened) == 16 and most == [1]
