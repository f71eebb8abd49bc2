"""RAW and DAT: a real recording, independent encoders, another library; over every turn of the clocks."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from egptlib.scenes import EventFile, load_events
from tests.scenes.events.encoders import dat, evt2, evt3, long_recording

EVT3_HEADER = "% date 2026-11-29 10:00:00\n% evt 3.0\n% format EVT3;height=480;width=640\n% geometry 640x480\n% end\n"
EVT2_HEADER = "% Date 2020-09-25 07:48:31\n% integrator_name Prophesee\n% evt 2.0\n"
DAT_HEADER = "% Data file containing CD events.\n% Version 2\n% Height 480\n% Width 640\n"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most recordings here have many blocks, which begin within vectors, rows and between time words."""
    monkeypatch.setattr("egptlib.scenes.events._prophesee.BYTES_PER_BLOCK", 1 << 10)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def assert_events(path: Path, events: dict, size: tuple[int, int] | None) -> None:
    loaded = load_events(path)
    for key, dtype in {"x": "u2", "y": "u2", "t": "i8", "p": "u1"}.items():
        assert loaded[key].dtype == dtype
        np.testing.assert_array_equal(loaded[key], events[key], err_msg=key)
    assert loaded.size == size
    with EventFile(path) as file:
        first, last = int(events["t"][0]), int(events["t"][-1])
        for start in [*range(first - 5, last, 2_345_678), last]:
            for length in (1000, 3_000_000):
                inside = (events["t"] >= start) & (events["t"] < start + length)
                window = file.window(start, start + length)
                for key, values in events.items():
                    np.testing.assert_array_equal(window[key], values[inside])
        assert (len(file), file.span()) == (len(events["t"]), (first, last))


def test_a_real_recording(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Event for event what evlib and faery give: the hash stands in the samples' README."""
    monkeypatch.setattr("egptlib.scenes.events._prophesee.BYTES_PER_BLOCK", 100_000)
    events = load_events(shared / "samples/gen3_evt2.raw")
    rows = np.stack([events[key].astype("<i8") for key in "txyp"], axis=1)
    digest = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
    assert digest == "cc4f712b190a45a99307f6690c7f9529cd25defde3a8a83fcd6c33b67244d6ad"


@pytest.mark.parametrize("vectors", [True, False])
def test_evt3_of_40_seconds(tmp_path: Path, vectors: bool) -> None:
    events = long_recording()
    assert_events(write(tmp_path / "a.raw", evt3(events, EVT3_HEADER, vectors=vectors)), events, (480, 640))


@pytest.mark.filterwarnings("ignore:.*the clock runs back")
def test_evt3_silent_over_a_turn_of_the_clock(tmp_path: Path) -> None:
    events = long_recording()
    path = write(tmp_path / "a.raw", evt3(events, EVT3_HEADER, clock=False))
    assert_events(path, events, (480, 640))


def test_a_doubtful_turn_is_told(tmp_path: Path) -> None:
    events = {
        key: np.array(values)
        for key, values in {"x": [1, 1], "y": [2, 2], "t": [5000, 16_780_000], "p": [0, 1]}.items()
    }
    path = write(tmp_path / "a.raw", evt3(events, EVT3_HEADER, clock=False))
    with pytest.warns(UserWarning, match=r"a\.raw: the clock runs back"):
        assert load_events(path)["t"].tolist() == [5000, 16_780_000]


def test_evt2_over_a_turn_of_its_clock(tmp_path: Path) -> None:
    events = long_recording()
    late = events | {"t": events["t"] + 2**34 - 20_000_000}
    loaded = load_events(write(tmp_path / "a.raw", evt2(late, EVT2_HEADER)))
    np.testing.assert_array_equal(loaded["t"], late["t"])
    assert_events(write(tmp_path / "b.raw", evt2(events, EVT2_HEADER)), events, None)


@pytest.mark.parametrize("kind", [0, 12])
def test_dat_over_a_turn_of_its_clock(tmp_path: Path, kind: int) -> None:
    events = long_recording()
    assert_events(write(tmp_path / "a.dat", dat(events, DAT_HEADER, kind)), events, (480, 640))
    late = events | {"t": events["t"] + 2**32 - 20_000_000}
    assert_events(write(tmp_path / "b.dat", dat(late, DAT_HEADER, kind)), late, (480, 640))


@pytest.mark.filterwarnings("ignore")  # of evlib's own imports
def test_another_library_reads_the_same(tmp_path: Path) -> None:
    evlib = pytest.importorskip("evlib", reason="evlib is not installed")
    events = long_recording()
    for name, data in {"3.raw": evt3(events, EVT3_HEADER), "2.raw": evt2(events, EVT2_HEADER)}.items():
        path = write(tmp_path / name, data)
        table = evlib.load_events(str(path)).collect()
        theirs = {key: table[name].to_numpy() for key, name in {"x": "x", "y": "y", "p": "polarity"}.items()}
        ours = load_events(path)
        np.testing.assert_array_equal(ours["t"], table["t"].dt.total_microseconds().to_numpy())
        np.testing.assert_array_equal(ours["x"], theirs["x"])
        np.testing.assert_array_equal(ours["y"], theirs["y"])
        np.testing.assert_array_equal(ours["p"], theirs["p"] > 0)


def test_events_before_the_first_time_word_are_left_out(tmp_path: Path) -> None:
    events = long_recording(50)
    late = evt3(events, "")
    path = write(tmp_path / "a.raw", EVT3_HEADER.encode() + bytes([5, 0x20, 0x07, 0x20]) + late)
    np.testing.assert_array_equal(load_events(path)["t"], events["t"])


@pytest.mark.parametrize("end", ["% end\n", ""])
def test_events_that_begin_as_a_header_line_are_events(tmp_path: Path, end: str) -> None:
    """A first time word of 0x25, which is "%": bimvee 2.0.0 loses what follows (findings/)."""
    events = long_recording(300)
    events["t"] += 0x25 * 64 - events["t"][0]
    data = evt2(events, EVT2_HEADER + end)
    assert data[len(EVT2_HEADER + end) :][:4] == bytes([0x25, 0, 0, 0x80])
    assert_events(write(tmp_path / "a.raw", data), events, None)


@pytest.mark.parametrize("line", ["% evt 2.1", "% format EVT21;height=720;width=1280", "% evt 4.0", ""])
def test_other_encodings_are_refused_by_name(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "a.raw", f"% camera x\n{line}\n% end\n".encode() + bytes(64))
    named = {"% evt 4.0": r"EVT 4\.0", "": "no encoding"}.get(line, r"EVT 2\.1")
    with pytest.raises(ValueError, match=rf"a\.raw: the header says {named}"):
        load_events(path)


def test_what_is_cut_off_is_refused(tmp_path: Path) -> None:
    events = long_recording(300)
    for name, data in {"a.raw": evt3(events, EVT3_HEADER), "a.dat": dat(events, DAT_HEADER)}.items():
        with pytest.raises(ValueError, match="cut off in the middle"):
            load_events(write(tmp_path / name, data[:-1]))
    with pytest.raises(ValueError, match=r"b\.dat: event type and size are"):
        load_events(write(tmp_path / "b.dat", (DAT_HEADER + "zz").encode()))


def test_memory_is_bounded_by_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib.scenes.events._prophesee.BYTES_PER_BLOCK", 1 << 16)
    count = 1_000_000
    t = np.arange(count)
    words = np.stack([np.full(count, 8 << 28) | t >> 6, (t & 0x3F) << 22 | 5 << 11 | 7], axis=1).astype("<u4")
    path = write(tmp_path / "a.raw", EVT2_HEADER.encode() + words.tobytes())
    load_events(path, 0, 10)  # compiled
    tracemalloc.start()
    with EventFile(path) as file:
        assert len(file.window(900_000, 900_100)["t"]) == 100
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000 < 13 * count
