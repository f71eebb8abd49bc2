"""Tables in archives, without names and as text, in the layouts that datasets and tools write."""

from pathlib import Path

import numpy as np
import pytest

from egptlib.scenes import EventFile, load_events
from tests.scenes.conftest import random_events
from tests.scenes.events.test_npy import Malicious

EVENTS = random_events(3000, span_us=20_000_000)
SECONDS, SIGNED = EVENTS["t"] / 1e6, 2 * EVENTS["p"].astype(int) - 1


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib.scenes.events._source.ROWS_PER_BLOCK", 700)
    monkeypatch.setattr("egptlib.scenes.events._text.BYTES_PER_BLOCK", 10_000)


def assert_events(path: Path, size: tuple[int, int] | None = None) -> None:
    loaded = load_events(path)
    for key, values in EVENTS.items():
        np.testing.assert_array_equal(loaded[key], values, err_msg=key)
    assert loaded.size == size
    with EventFile(path) as file:
        for start in range(-5, 20_000_000, 3_333_333):
            inside = (EVENTS["t"] >= start) & (EVENTS["t"] < start + 900_000)
            np.testing.assert_array_equal(file.window(start, start + 900_000)["x"], EVENTS["x"][inside])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives(tmp_path: Path, save: object) -> None:
    assert callable(save)
    path = tmp_path / "a.npz"
    save(path, **EVENTS)
    assert_events(path)
    save(path, **EVENTS | {"t": SECONDS, "p": SIGNED.astype(np.int8)}, width=32)  # as EventNeRF's users write
    assert_events(path)
    records = np.zeros(3000, [("x", "u2"), ("y", "u2"), ("t", "i8"), ("p", "?")])  # N-ImageNet
    for key, values in EVENTS.items():
        records[key] = values
    save(path, event_data=records)
    assert_events(path)
    save(path, event_data=np.stack([EVENTS[key] for key in "xytp"], axis=1))  # EventBench's second form
    assert_events(path)
    bins = np.empty(3, object)  # EventBench, preprocessed
    for number in range(3):
        bins[number] = {key: values[1000 * number : 1000 * (number + 1)] for key, values in EVENTS.items()}
    save(path, event_bins=bins)
    assert_events(path)


def test_an_archive_runs_no_code_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    mark = tmp_path / "ran"
    np.savez(tmp_path / "a.npz", event_data=np.array([Malicious(f"touch {mark}")], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npz: .*posix\.system"):
        load_events(tmp_path / "a.npz")
    assert not mark.exists()
    np.savez(tmp_path / "b.npz", **EVENTS)
    whole = (tmp_path / "b.npz").read_bytes()
    for keep in (10, 3000, len(whole) - 30):
        (tmp_path / "c.npz").write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"c\.npz: not a readable"):
            load_events(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", frames=np.zeros(3))
    with pytest.raises(ValueError, match=r"d\.npz: .*holds frames; expected x, y, t, p"):
        load_events(tmp_path / "d.npz")
    load_events(tmp_path / "b.npz")
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("order", ["txyp", "xytp", "xypt"])
@pytest.mark.parametrize("seconds", [True, False])
@pytest.mark.parametrize("signed", [True, False])
def test_tables_without_names(tmp_path: Path, order: str, seconds: bool, signed: bool) -> None:
    columns = EVENTS | {"t": SECONDS if seconds else EVENTS["t"], "p": SIGNED if signed else EVENTS["p"]}
    np.save(tmp_path / "a.npy", np.stack([columns[key] for key in order], axis=1))
    assert_events(tmp_path / "a.npy")
    np.savetxt(tmp_path / "a.txt", np.stack([columns[key] for key in order], axis=1), "%.6f" if seconds else "%d")
    assert_events(tmp_path / "a.txt")


def test_a_table_that_does_not_tell_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.tile([1, 1, 1, 1], (5, 1)))
    with pytest.raises(ValueError, match=r"a\.npy: four columns without names; .*txyp and xytp and xypt would fit"):
        load_events(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.random.default_rng(0).integers(0, 99, (50, 4)))
    with pytest.raises(ValueError, match="none would fit"):
        load_events(tmp_path / "b.npy")


def lines(form: str, **columns: np.ndarray) -> str:
    values = (EVENTS | columns).items()
    return "".join(form.format(**dict(zip("xytp", row))) + "\n" for row in zip(*(v.tolist() for _, v in values)))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (lines("{t:.6f} {x} {y} {p}", t=SECONDS), None),  # the Event Camera Dataset
        ("32 24\n" + lines("{t:.9f} {x} {y} {p}", t=SECONDS), (24, 32)),  # E2VID
        (lines("{x},{y},{p},{t}"), None),  # metavision_file_to_csv
        ("%geometry:32,24\n" + lines("{x},{y},{p},{t}"), (24, 32)),
        ("timestamp,x,y,polarity\n" + lines("{t},{x},{y},{p}"), None),
        ("# x y pol ts\n\n" + lines("{x}\t{y}   {p} {t}").replace("\n", " \r\n"), None),
        ("p;t;y;x\n" + lines("{p};{t};{y};{x}", p=SIGNED), None),
    ],
)
def test_text(tmp_path: Path, text: str, size: tuple[int, int] | None) -> None:
    (tmp_path / "a.csv").write_text(text, newline="")
    assert_events(tmp_path / "a.csv", size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("once upon a time there was\n", "'once upon a time there was' is no event"),
        ("t,x,y,z\n1,2,3,4\n", "the columns are t, x, y, z"),
        (lines("{t} {x} {y} {p}") + "99999999 3 4\n", "after byte"),
        (lines("{t} {x} {y} {p}") + "99999999 3 4 yes\n", "after byte .*'yes' is no number"),
        (lines("{t} {x} {y} {p}") + "99999999 3 4.\udcff 1\n", "after byte .* is no number"),
        (lines("{t},{x},{y},{p}") + "99999999,,4,1\n", "after byte .* is no number"),
        (lines("{t} {x} {y} {p}") + "inf 3 4 1\n", "not finite"),
        (lines("{t} {x} {y} {p}") + "99999999 3 4 5\n", "field 'p' holds 0, 1, 5"),
        ("t,x,y,p\n1,2,3,0\n" + "1" * 20_000, "no end of line"),
    ],
)
def test_text_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=rf"a\.txt: .*{message}"):
        load_events(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"#!AER-DAT2.0\r\n", "AEDAT 2"), (b"#!AER-DAT3.1\r\n", "AEDAT 3"), (b"#ROSBAG V2.0\n", "ROS bag"),
        (b"SQLite format 3\0", "ROS 2 bag"), (b"\x1f\x8b\x08\0", "gzip"), (bytes(40), "known"), (b"", "known"),
    ],
)  # fmt: skip
def test_other_formats_are_refused_with_what_helps(tmp_path: Path, head: bytes, message: str) -> None:
    (tmp_path / "a.raw").write_bytes(head)
    with pytest.raises(ValueError, match=rf"a\.raw: .*{message}"):
        load_events(tmp_path / "a.raw")


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **EVENTS)
    assert_events((tmp_path / "a.npz").rename(tmp_path / "a.dat"))
