"""Writing and cutting DSEC sequences, against plain masks over the whole recording."""

import json
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from PIL import Image

from egptlib.scenes import (
    check_folder,
    cut_dsec,
    cut_sequence,
    event_images,
    open_scenes,
    parse_window,
    read_frames,
    write_dsec_sequence,
    write_index,
)
from egptlib.scenes._cutting import cut_settings, is_cut, windows
from tests.scenes.conftest import frame_number, numbered_frame, random_events, read_entries

START = 49_599_300_523  # a real DSEC clock does not start at zero
PERIOD = 50_000


def make_sequence(folder: Path, frames: int = 50, seed: int = 0, jitter_us: int = 0) -> tuple[Path, dict, np.ndarray]:
    rng = np.random.default_rng(seed)
    times = START + PERIOD * np.arange(frames) + rng.integers(-jitter_us, jitter_us + 1, frames)
    events = random_events(3000, seed, span_us=frames * PERIOD + 40_000)
    events["t"] += START - 20_000  # the events begin before the first image and go on after the last
    pictures = (numbered_frame(number % 25) for number in range(frames))
    return write_dsec_sequence(folder, events, pictures, times), events, times


def test_written_sequence_is_in_dsec_layout(tmp_path: Path) -> None:
    folder, events, times = make_sequence(tmp_path / "seq", frames=5)
    assert [int(line) for line in (folder / "images/timestamps.txt").read_text().split()] == times.tolist()
    names = sorted(path.name for path in (folder / "images/left/rectified").iterdir())
    assert names == [f"{number:06d}.png" for number in range(5)]
    picture = np.asarray(Image.open(folder / "images/left/rectified/000003.png"))
    np.testing.assert_array_equal(picture, numbered_frame(3))
    with h5py.File(folder / "events/left/events.h5") as file:
        assert int(file["t_offset"][()]) == events["t"][0]
        for key in "xyp":
            np.testing.assert_array_equal(file[f"events/{key}"][()], events[key])


def test_windows_of_a_recording() -> None:
    times = START + PERIOD * np.arange(41)  # 2.05 s
    assert windows(times, 1_000_000) == [(START + k * 500_000, START + k * 500_000 + 1_000_000) for k in range(3)]
    assert len(windows(times, 500_000)) == 7
    assert windows(times[:20], 1_000_000) == [(START, START + 1_000_000)]  # twenty frames cover exactly a second
    assert windows(times[:19], 1_000_000) == []
    assert windows(times[:1], 1_000_000) == []


@pytest.mark.parametrize("window_us", [1_000_000, 500_000])
@pytest.mark.parametrize("jitter_us", [0, 300])
def test_cut_windows_are_exact(tmp_path: Path, window_us: int, jitter_us: int) -> None:
    _, events, times = make_sequence(tmp_path / "dsec/seq_a", jitter_us=jitter_us)
    report = cut_dsec([tmp_path / "dsec"], tmp_path / "out_1s", window_us=window_us, keep_events=True)
    expected = windows(times, window_us)
    assert report.samples == len(expected) == len(read_entries(tmp_path / "out_1s"))
    assert report.sequences_cut == 1
    one, five = open_scenes(tmp_path / "out_1s"), open_scenes(tmp_path / "out_1s", event_views=5)
    per_window = window_us // PERIOD
    for number, (start, stop) in enumerate(expected):
        inside = (events["t"] >= start) & (events["t"] < stop)
        part = {key: values[inside] for key, values in events.items()}
        raw = one[number].events()
        assert raw is not None
        for key in "xytp":
            np.testing.assert_array_equal(raw[key], part[key])
        np.testing.assert_array_equal(one[number].event_images[0], event_images(part, 1)[0])
        for got, image in zip(five[number].event_images, event_images(part, 5), strict=True):
            np.testing.assert_array_equal(got, image)
        frames, _ = read_frames(tmp_path / "out_1s/mp4/seq_a" / f"{number:06d}.mp4", n=per_window)
        first = number * per_window // 2
        assert [frame_number(frame) for frame in frames] == [k % 25 for k in range(first, first + per_window)]
    assert check_folder(tmp_path / "out_1s") == []


def test_entries_have_the_users_keys(tmp_path: Path) -> None:
    make_sequence(tmp_path / "seq_a", frames=20)
    cut_dsec([tmp_path / "seq_a"], tmp_path / "my_split_1s", keep_events=True)
    (entry,) = read_entries(tmp_path / "my_split_1s")
    stem = "seq_a/000000"
    assert entry["split"] == "my_split_1s"
    assert entry["event_data"] == f"{stem}.npy"
    assert entry["video_data"] == stem
    assert entry["mp4_data"] == f"{stem}.mp4"
    assert entry["event_image"] == [f"{stem}_{view}.png" for view in range(5)]
    assert entry["event_image_1f"] == [f"{stem}_0.png"]
    assert entry["conversations"] == [{"from": "human", "value": ""}, {"from": "gpt", "value": ""}]
    assert (entry["sequence"], entry["events"], entry["event_order"]) == ("seq_a", "recorded", "last")
    scene = open_scenes(tmp_path / "my_split_1s")[0]
    assert (scene.rendering, scene.metadata["events"], scene.id) == ("last", "recorded", entry["id"])
    record = np.load(tmp_path / "my_split_1s/event_npy" / f"{stem}.npy", allow_pickle=True).item()
    extras = {"time_start", "time_end", "duration_ms", "image_timestamp", "image_idx", "image_indices_in_clip"}
    assert set(record) == {"p", "t", "x", "y", "num_events"} | extras
    assert (record["time_start"], record["time_end"], record["duration_ms"]) == (START, START + 1_000_000, 1000)
    assert record["image_indices_in_clip"] == list(range(20))
    assert record["num_events"] == len(record["t"]) == entry["num_events"]
    with av.open(str(tmp_path / "my_split_1s/mp4" / f"{stem}.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.frames, stream.average_rate) == ("h264", 20, Fraction(20))


def test_annotations_and_the_simulated_label(tmp_path: Path) -> None:
    events = random_events(1000) | {"t": np.sort(np.random.default_rng(0).integers(0, 1_500_000, 1000))}
    frames = [numbered_frame(0)] * 30
    write_dsec_sequence(tmp_path / "seq", events, frames, PERIOD * np.arange(30), metadata={"events": "simulated"})
    cut_dsec([tmp_path / "seq"], tmp_path / "out", annotate=lambda *window: {"window": list(window)})
    entries = read_entries(tmp_path / "out")
    assert [entry["window"] for entry in entries] == [["seq", 0, 1_000_000], ["seq", 500_000, 1_500_000]]
    assert {entry["events"] for entry in entries} == {"simulated"}


def test_cutting_again_changes_nothing_and_adds_what_is_new(tmp_path: Path) -> None:
    make_sequence(tmp_path / "dsec/seq_b", frames=30)
    out = tmp_path / "out"
    cut_dsec([tmp_path / "dsec"], out)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.png")}
    ids = [entry["id"] for entry in read_entries(out)]
    make_sequence(tmp_path / "dsec/seq_a", frames=30, seed=1)
    report = cut_dsec([tmp_path / "dsec"], out)
    assert (report.sequences_cut, report.sequences_skipped, report.samples) == (1, 1, 4)
    for path, state in before.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == state
    entries = read_entries(out)
    assert [entry["event_data"][:5] for entry in entries] == ["seq_a", "seq_a", "seq_b", "seq_b"]
    assert [entry["id"] for entry in entries[2:]] == ids
    assert len({entry["id"] for entry in entries}) == 4
    with pytest.raises(ValueError, match=r"was cut with .*choose another folder"):
        cut_dsec([tmp_path / "dsec"], out, window_us=500_000)


def test_an_interrupted_cut_goes_on(tmp_path: Path) -> None:
    """A sequence without its part file is cut again, whatever the interruption left in the folders."""
    for name in ("seq_a", "seq_b"):
        make_sequence(tmp_path / "dsec" / name, frames=30)
    out = tmp_path / "out"

    def stop(name: str, start: int, _: int) -> dict:
        if name == "seq_b" and start > START:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        cut_dsec([tmp_path / "dsec"], out, annotate=stop)
    assert not (out / "EventGPT_Instruction_Subset.json").exists()
    (out / "mp4/seq_b/000007.mp4").write_bytes(b"left over")
    assert is_cut("seq_a", out, cut_settings(1_000_000))
    assert not is_cut("seq_b", out, cut_settings(1_000_000))
    report = cut_dsec([tmp_path / "dsec"], out)
    assert (report.sequences_cut, report.sequences_skipped, report.samples) == (1, 1, 4)
    assert not (out / "mp4/seq_b/000007.mp4").exists()
    assert check_folder(out) == []


def test_parallel_cut_equals_serial_cut(tmp_path: Path) -> None:
    for seed, name in enumerate(("seq_a", "seq_b", "seq_c")):
        make_sequence(tmp_path / "dsec" / name, frames=30, seed=seed)
    cut_dsec([tmp_path / "dsec"], tmp_path / "1" / "out", jobs=1)
    cut_dsec([tmp_path / "dsec"], tmp_path / "2" / "out", jobs=2)
    assert read_entries(tmp_path / "1" / "out") == read_entries(tmp_path / "2" / "out")
    for path in (tmp_path / "1" / "out").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes()


def test_windows_without_events_are_set_aside(tmp_path: Path) -> None:
    events = random_events(1000, span_us=400_000)  # silence after 0.4 s
    frames = [numbered_frame(0)] * 40
    write_dsec_sequence(tmp_path / "seq", events, frames, PERIOD * np.arange(40))
    write_dsec_sequence(tmp_path / "still", random_events(0), frames, PERIOD * np.arange(40))
    report = cut_dsec([tmp_path / "seq", tmp_path / "still"], tmp_path / "out")
    assert report.samples == 1
    assert report.set_aside == tuple([f"seq/{k:06d}" for k in (1, 2)] + [f"still/{k:06d}" for k in range(3)])


def test_windows_without_frames_are_set_aside(tmp_path: Path) -> None:
    """The camera stalls for three seconds while events go on."""
    times = np.r_[PERIOD * np.arange(40), 5_000_000 + PERIOD * np.arange(40)]
    frames = [numbered_frame(number % 25) for number in range(80)]
    write_dsec_sequence(tmp_path / "seq", random_events(9000, span_us=7_000_000), frames, times)
    report = cut_dsec([tmp_path / "seq"], tmp_path / "out", keep_events=True)
    starts = range(0, 6_000_001, 500_000)
    empty = [k for k, start in enumerate(starts) if not ((times >= start) & (times < start + 1_000_000)).any()]
    assert report.set_aside == tuple(f"seq/{k:06d}" for k in empty)
    assert report.samples == len(starts) - len(empty)
    assert check_folder(tmp_path / "out") == []


def test_frames_of_a_sequence_may_have_odd_sides_but_not_several_sizes(tmp_path: Path) -> None:
    frames = [np.full((45, 33, 3), 8 * number, np.uint8) for number in range(20)]
    folder = write_dsec_sequence(tmp_path / "seq", random_events(500), frames, PERIOD * np.arange(20))
    cut_dsec([folder], tmp_path / "out")
    assert read_frames(tmp_path / "out/mp4/seq/000000.mp4")[0].shape == (8, 44, 32, 3)
    Image.new("RGB", (64, 48)).save(folder / "images/left/rectified/000007.png")
    with pytest.raises(ValueError, match=r"000007\.png: is \(48, 64, 3\)"):
        cut_dsec([folder], tmp_path / "other")


def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder, _, _ = make_sequence(tmp_path / "seq", frames=20)
    for path in sorted((folder / "images/left/rectified").iterdir()):
        path.rename(path.with_name(f"{int(path.stem)}.png"))
    cut_dsec([folder], tmp_path / "out")
    frames, _ = read_frames(tmp_path / "out/mp4/seq/000000.mp4", 20)
    assert [frame_number(frame) for frame in frames] == list(range(20))


def test_one_view_only(tmp_path: Path) -> None:
    make_sequence(tmp_path / "seq", frames=20)
    assert cut_sequence(tmp_path / "seq", tmp_path / "out", views=(1,)) == 1
    assert write_index(tmp_path / "out") == 1
    assert not (tmp_path / "out/event_image").exists()
    assert len(open_scenes(tmp_path / "out")[0].event_images) == 1
    with pytest.raises(ValueError, match=r"views \[3\]"):
        cut_sequence(tmp_path / "seq", tmp_path / "other", views=(3,))


def test_other_frame_rates_keep_their_times(tmp_path: Path) -> None:
    """25 frames a second stay so; a clip with frames left out gets variable times."""
    regular = 40_000 * np.arange(30)
    uneven = np.delete(33_333 * np.arange(60), [3, 4, 9, 20, 31, 32, 40])
    for name, times in (("regular", regular), ("uneven", uneven)):
        pictures = [numbered_frame(number % 25) for number in range(len(times))]
        write_dsec_sequence(tmp_path / "dsec" / name, random_events(2000, span_us=2_000_000), pictures, times)
    cut_dsec([tmp_path / "dsec"], tmp_path / "out")
    for name, times, frames in (("regular", regular, 25), ("uneven", uneven, int((uneven < 996_000).sum()))):
        with av.open(str(tmp_path / f"out/mp4/{name}/000000.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.frames == frames
            if name == "regular":
                assert stream.average_rate == Fraction(25)
            shown = [frame.time for frame in container.decode(video=0)]
        np.testing.assert_allclose(shown, times[:frames] / 1e6, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "window_us"), [("1s", 1_000_000), ("500ms", 500_000), ("0.25 s", 250_000), ("1500us", 1500)]
)
def test_parse_window(text: str, window_us: int) -> None:
    assert parse_window(text) == window_us


@pytest.mark.parametrize("text", ["", "1", "1 minute", "-1s", "0s", "s"])
def test_parse_window_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_window(text)


def test_wrong_sequences_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty: no DSEC sequence here"):
        cut_dsec([tmp_path / "empty"], tmp_path / "out")
    folder, *_ = make_sequence(tmp_path / "seq", frames=20)
    with pytest.raises(ValueError, match="appear twice: seq"):
        cut_dsec([folder, tmp_path / "seq"], tmp_path / "out")
    (folder / "images/left/rectified/000004.png").unlink()
    with pytest.raises(ValueError, match="rectified: 19 PNG frames but 20 timestamps"):
        cut_dsec([folder], tmp_path / "out")
    (folder / "images/timestamps.txt").write_text("0\n50 000.5\n")
    with pytest.raises(ValueError, match=r"timestamps\.txt: expected"):
        cut_dsec([folder], tmp_path / "out")
    (folder / "images/timestamps.txt").write_text("0\n50000\n20000\n")
    with pytest.raises(ValueError, match=r"timestamps\.txt: expected increasing"):
        cut_dsec([folder], tmp_path / "out")


def test_a_users_index_is_not_overwritten(tmp_path: Path, users_folder: Path) -> None:
    make_sequence(tmp_path / "seq", frames=20)
    before = read_entries(users_folder)
    with pytest.raises(ValueError, match=r"was not cut by egptlib"):
        cut_dsec([tmp_path / "seq"], users_folder)
    with pytest.raises(ValueError, match=r"was not cut by egptlib"):
        cut_sequence(tmp_path / "seq", users_folder)
    assert read_entries(users_folder) == before
    assert not (users_folder / ".cut").exists()


def test_wrong_recordings_are_refused(tmp_path: Path) -> None:
    events, frames = random_events(10), [numbered_frame(0)] * 2
    backwards = {key: values[::-1] for key, values in events.items()}
    late = events | {"t": np.linspace(0, 2**33, 10).astype(np.int64)}
    for arguments, message in (
        ((backwards, frames, [0, 1]), "events must be sorted"),
        ((events, frames, [0, 1, 2]), "2 frames but 3 timestamps"),
        ((events, frames, [1, 0]), "timestamps_us must be increasing"),
        ((late, frames, [0, 1]), "DSEC stores t in 32 bits"),
    ):
        with pytest.raises(ValueError, match=message):
            write_dsec_sequence(tmp_path / "seq", *arguments)
        assert not (tmp_path / "seq/events/left/events.h5").exists()


def test_part_files_are_json(tmp_path: Path) -> None:
    make_sequence(tmp_path / "seq", frames=20)
    cut_dsec([tmp_path / "seq"], tmp_path / "out")
    part = json.loads((tmp_path / "out/.cut/seq.json").read_text())
    assert part["samples"] == read_entries(tmp_path / "out")


@pytest.mark.parametrize("clock", [0, 5_000_000])
def test_events_in_nanoseconds_beside_frames_in_microseconds_are_refused(tmp_path: Path, clock: int) -> None:
    events = random_events(3000, span_us=2_000_000)
    frames, times = [numbered_frame(i % 20) for i in range(40)], clock + PERIOD * np.arange(40)
    write_dsec_sequence(tmp_path / "seq", events | {"t": events["t"] + clock}, frames, times)
    with h5py.File(tmp_path / "seq/events/left/events.h5", "r+") as file:
        del file["events/t"], file["t_offset"]
        file["events/t"] = 1000 * (events["t"] + clock)
    with pytest.raises(ValueError, match=r"events\.h5: field 't' goes from .*nanoseconds\? Expected microseconds"):
        cut_dsec([tmp_path / "seq"], tmp_path / "out")
