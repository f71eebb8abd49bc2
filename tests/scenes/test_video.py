"""Frames out of clips of every awkward kind; frames carry their number, so the right ones are seen to be taken."""

import gc
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from egptlib.scenes import frame_indices, read_frames, write_video
from egptlib.scenes._video import clip_length, iterate_video, video_frame_count
from tests.scenes.conftest import encode, frame_number, numbered_frame


def numbers(path: Path, **options: object) -> tuple[list[int], list[int]]:
    frames, indices = read_frames(path, **options)  # type: ignore[arg-type]
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), 48, 64, 3)
    return [frame_number(frame) for frame in frames], indices


def test_even_sampling_is_that_of_the_earlier_extraction() -> None:
    assert frame_indices(20) == [0, 2, 5, 8, 10, 13, 16, 19]
    assert frame_indices(20, sampling="first") == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("total", range(1, 30))
def test_indices_are_in_order_and_span_the_clip(total: int) -> None:
    indices = frame_indices(total, 8)
    assert len(indices) == 8
    assert indices == sorted(indices)
    assert (indices[0], indices[-1]) == (0, total - 1)
    assert len(set(indices)) == min(total, 8)  # no repeat unless the clip is too short for eight


@pytest.mark.parametrize("arguments", [(0, 8), (5, 0), (5, 8, "random")])
def test_impossible_sampling(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"cannot take|unknown frame sampling 'random'"):
        frame_indices(*arguments)


@pytest.mark.parametrize("sampling", ["even", "first"])
@pytest.mark.parametrize("count", [1, 3, 8, 20])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])  # the headers of mkv and ts say zero frames
def test_sampled_frames(tmp_path: Path, suffix: str, count: int, sampling: str) -> None:
    path = encode(tmp_path / f"clip.{suffix}", count)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == (count if suffix == "mp4" else 0)
    expected = frame_indices(count, 8, sampling)  # type: ignore[arg-type]
    assert numbers(path, sampling=sampling) == (expected, expected)
    assert video_frame_count(path) == count


def test_frames_are_given_back_without_the_garbage_collector(tmp_path: Path) -> None:
    """Else they wait for it, a clip in memory; and one that ends a frame in a forked process waits for ever."""
    path = encode(tmp_path / "clip.mp4", 20)
    gc.collect()
    gc.disable()
    try:
        assert video_frame_count(path) == len(read_frames(path, 20)[0]) == 20
        assert not [value for value in gc.get_objects() if type(value).__name__ == "VideoFrame"]
    finally:
        gc.enable()


def test_a_target_may_choose_the_frames_by_number_and_rate(tmp_path: Path) -> None:
    grey = [np.full((32, 48, 3), 12 * i, np.uint8) for i in range(20)]
    write_video(tmp_path / "clip.mp4", grey, fps=10)
    told: list[tuple[int, float | None]] = []

    def every_fifth(length: int, rate: float | None) -> range:
        told.append((length, rate))
        return range(0, length, 5)

    frames, indices = read_frames(tmp_path / "clip.mp4", sampling=every_fifth)
    assert indices == [0, 5, 10, 15]
    assert [round(float(frame.mean()) / 12) for frame in frames] == indices
    assert set(told) == {(20, 10.0)} == {clip_length(tmp_path / "clip.mp4")}
    assert frame_indices(20, sampling=lambda total, rate: np.linspace(0, total - 1, 3).round()) == [0, 10, 19]
    with pytest.raises(ValueError, match=r"frame sampling: expected a whole number, found .*9\.5"):
        frame_indices(20, sampling=lambda total, rate: np.linspace(0, total - 1, 3))
    with pytest.raises(ValueError, match=r"frame sampling: expected indices below 20, found \[20\]"):
        read_frames(tmp_path / "clip.mp4", sampling=lambda length, rate: [length])


def test_short_clip_repeats() -> None:
    assert frame_indices(3) == [0, 0, 0, 0, 1, 1, 1, 2]
    assert frame_indices(3, sampling="first") == [0, 1, 2, 2, 2, 2, 2, 2]


def test_variable_frame_rate_is_sampled_by_index(tmp_path: Path) -> None:
    times = [0, 10, 20, 30, 40, 50, 60, 70, 80, 2000, 4000, 6000]
    expected = frame_indices(12)
    assert numbers(encode(tmp_path / "clip.mp4", 12, times)) == (expected, expected)


def test_folder_of_frames_with_numbers_of_any_length(tmp_path: Path) -> None:
    for pattern in ("{}.png", "frame_{}.png", "left_{}_rgb2.png"):
        folder = tmp_path / pattern.partition("{")[0]
        folder.mkdir(exist_ok=True)
        for number in range(12):
            Image.fromarray(numbered_frame(number)).save(folder / pattern.format(number))
        assert numbers(folder, n=12) == (list(range(12)),) * 2
        for path in folder.glob("*.png"):
            path.unlink()


def test_folder_of_frames(tmp_path: Path) -> None:
    for number in range(20):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"{5000 + number:06d}.png")
    assert numbers(tmp_path) == ([0, 2, 5, 8, 10, 13, 16, 19],) * 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no PNG frame"):
        read_frames(tmp_path / "empty")


def test_only_wanted_frames_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds the frames asked for, not the clip."""
    import egptlib.scenes._video as video

    converted = 0

    class Counting:
        def __init__(self, picture: video.Picture) -> None:
            self.picture = picture

        def to_ndarray(self) -> np.ndarray:
            nonlocal converted
            converted += 1
            return self.picture.to_ndarray()

    decode = video.iterate_video
    monkeypatch.setattr(video, "iterate_video", lambda path: map(Counting, decode(path)))
    numbers(encode(tmp_path / "clip.mp4", 24), n=4)
    assert converted == 4


@pytest.fixture
def noisy_clip(tmp_path: Path) -> Path:
    """A clip with real content and its header in front, so that damage falls into coded pictures."""
    rng = np.random.default_rng(0)
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(20):
            noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    return path


def packets(path: Path) -> list[tuple[int, int]]:
    """Position and size of each coded picture in the file."""
    with av.open(str(path)) as container:
        return [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]


def plain_frame_count(path: Path) -> int:
    """What a reader that trusts FFmpeg's defaults sees."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_damage_that_ffmpeg_paints_over(noisy_clip: Path) -> None:
    """Most damage leaves a picture that cannot be decoded to its end; FFmpeg fills the rest in without an error."""
    data = bytearray(noisy_clip.read_bytes())
    for position, size in packets(noisy_clip)[5:10]:
        middle = position + size // 2
        data[middle : middle + 40] = bytes(range(40))
    noisy_clip.write_bytes(data)
    assert plain_frame_count(noisy_clip) == 20
    with pytest.raises(ValueError, match=r"clip\.mp4: damaged video"):
        read_frames(noisy_clip)


def test_clip_that_ends_early_between_two_pictures(noisy_clip: Path) -> None:
    position, size = packets(noisy_clip)[11]
    noisy_clip.write_bytes(noisy_clip.read_bytes()[: position + size])
    assert 0 < plain_frame_count(noisy_clip) < 20
    with pytest.raises(ValueError, match=r"clip\.mp4: damaged video: holds 12 of 20 frames"):
        read_frames(noisy_clip)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.95])
def test_truncated_clip(noisy_clip: Path, keep: float) -> None:
    data = noisy_clip.read_bytes()
    noisy_clip.write_bytes(data[: round(keep * len(data))])
    with pytest.raises(ValueError, match=r"clip\.mp4: damaged video"):
        read_frames(noisy_clip)


def test_missing_file_and_file_without_video(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such video"):
        read_frames(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"text\.mp4: damaged video"):
        read_frames(tmp_path / "text.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"sound\.mp4: holds no video stream"):
        read_frames(tmp_path / "sound.mp4")


def test_written_clip(tmp_path: Path) -> None:
    """H.264 at 20 frames a second, close to what was put in, colours included."""
    gradient = np.zeros((20, 48, 64, 3), dtype=np.uint8)
    gradient[..., 0] = np.arange(64) * 3
    gradient[..., 1] = (np.arange(48) * 4)[:, None]
    gradient[..., 2] = (np.arange(20) * 10)[:, None, None]
    write_video(tmp_path / "a" / "clip.mp4", iter(gradient))
    with av.open(str(tmp_path / "a" / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.frames, stream.average_rate) == ("h264", 20, Fraction(20))
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(20) / 20)
    frames, indices = read_frames(tmp_path / "a" / "clip.mp4")
    assert np.abs(frames.astype(int) - gradient[indices]).mean() < 4


def test_a_clip_is_written_where_pyav_has_no_x264(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib.scenes._video._ENCODERS", ("no such encoder", "libvpx-vp9"))
    frames = [numbered_frame(number) for number in range(20)]
    write_video(tmp_path / "clip.mp4", frames)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert (container.streams.video[0].codec_context.name, container.streams.video[0].frames) == ("vp9", 20)
    read, indices = read_frames(tmp_path / "clip.mp4")
    assert np.abs(read.astype(int) - np.stack(frames)[indices]).mean() < 6


def test_written_clip_with_its_own_times(tmp_path: Path) -> None:
    frames = [numbered_frame(number) for number in range(4)]
    write_video(tmp_path / "clip.mp4", frames, fps=30, timestamps_us=[1_000_000, 1_033_000, 1_100_000, 1_400_000])
    with av.open(str(tmp_path / "clip.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, [0, 0.033, 0.1, 0.4], atol=1e-3)


def test_impossible_clips_leave_no_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with pytest.raises(ValueError, match="no frames to write"):
        write_video(path, [])
    with pytest.raises(ValueError, match="even H and W"):
        write_video(path, [np.zeros((5, 6, 3), np.uint8)])
    with pytest.raises(ValueError, match="the first one was"):
        write_video(path, [np.zeros((16, 16, 3), np.uint8), np.zeros((18, 16, 3), np.uint8)])
    assert list(tmp_path.iterdir()) == []


def trim(path: Path, first: int, last: int, b_frames: int, key_frames: int, stored: int = 40) -> Path:
    """A clip whose edit list shows only frames `first` to `last`, as a trim that does not encode again leaves it."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.options = {"bf": str(b_frames), "g": str(key_frames), "crf": "1"}
        for number in range(stored):
            picture = np.full((48, 64, 3), 6 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        ticks = int(1 / (stream.time_base or 1))
    data = bytearray(path.read_bytes())
    at = data.find(b"elst") + 12
    _, start = struct.unpack(">Ii", data[at : at + 8])
    data[at : at + 8] = struct.pack(">Ii", 50 * (last - first), start + first * ticks // 20)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("key_frames", [7, 250])
@pytest.mark.parametrize(("first", "last"), [(0, 20), (25, 40), (11, 29), (39, 40)])
def test_an_edit_list_decides_which_frames_there_are(
    tmp_path: Path, b_frames: int, key_frames: int, first: int, last: int
) -> None:
    path = trim(tmp_path / "clip.mp4", first, last, b_frames, key_frames)
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == last - first == video_frame_count(path) == clip_length(path)[0]
    frames, indices = read_frames(path)
    assert indices == frame_indices(last - first)
    np.testing.assert_array_equal(frames, np.stack([shown[index] for index in indices]))
    assert [round(float(frame.mean()) / 6) for frame in frames] == [first + index for index in indices]


def test_a_trimmed_clip_that_ends_early_is_damaged(tmp_path: Path) -> None:
    path = trim(tmp_path / "clip.mp4", 0, 20, b_frames=0, key_frames=10)
    position, _ = packets(path)[15]
    path.write_bytes(path.read_bytes()[:position])
    with pytest.raises(ValueError, match=r"clip\.mp4: damaged video: holds 15 of 21 frames"):
        read_frames(path)


def test_gaps_of_an_avi_are_no_frames(tmp_path: Path) -> None:
    """Its header counts the empty chunks that fill the gaps: 17 for ten frames."""
    path = encode(tmp_path / "clip.avi", 10, [50 * (number + 7 * (number > 4)) for number in range(10)])
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 10
    assert numbers(path) == (frame_indices(10),) * 2
    data = path.read_bytes()
    path.write_bytes(data[: packets(path)[8][0]])  # its index stood at the end
    with pytest.raises(ValueError, match=r"clip\.avi: damaged video: holds 8 of"):
        read_frames(path)


ONE = 0x10000


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "upright"),
    [
        (0, 1, -1, 0, lambda stored: np.rot90(stored, -1)),
        (-1, 0, 0, -1, lambda stored: np.rot90(stored, 2)),
        (0, -1, 1, 0, lambda stored: np.rot90(stored, 1)),
        (-1, 0, 0, 1, np.fliplr),
        (1, 0, 0, -1, np.flipud),
        (0, 1, 1, 0, lambda stored: stored.swapaxes(0, 1)),
        (0, -1, -1, 0, lambda stored: np.rot90(stored, 2).swapaxes(0, 1)),
        (1, 0, 0, 1, lambda stored: stored),
    ],
)
def test_frames_are_turned_upright(tmp_path: Path, a: int, b: int, c: int, d: int, upright: Callable) -> None:
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :16] = 255, 0, 0
    stored[32:, :16] = 0, 255, 0
    stored[32:, 48:] = 0, 0, 255
    path = tmp_path / "clip.mp4"
    write_video(path, [stored] * 2, crf=1)
    turn(path, a * ONE, b * ONE, c * ONE, d * ONE)
    expected = upright(stored)
    (picture, _) = iterate_video(path)
    assert picture.size == expected.shape[:2]
    assert picture.to_ndarray(format="gray").shape == expected.shape[:2]
    frames, _ = read_frames(path, 2)
    assert frames.shape == (2, *expected.shape)
    assert np.abs(frames.astype(int) - expected).mean() < 12


def test_a_slanted_display_matrix_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [numbered_frame(1)])
    turn(tmp_path / "clip.mp4", 46341, 46341, -46341, 46341)
    with pytest.raises(ValueError, match=r"clip\.mp4: its display matrix .* no multiple of 90"):
        read_frames(tmp_path / "clip.mp4")


def turn(path: Path, a: int, b: int, c: int, d: int) -> None:
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_a_picture_size_that_changes_is_an_error_with_a_name(tmp_path: Path) -> None:
    takes = []
    for number, side in enumerate((48, 96)):
        path = tmp_path / f"take_{number}.ts"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=20)
            stream.height, stream.width, stream.pix_fmt = side, 64, "yuv420p"
            for _ in range(10):
                picture = np.zeros((side, 64, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        takes.append(path.read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(takes))
    for read in (read_frames, video_frame_count):
        with pytest.raises(ValueError, match=r"both\.ts: frame 10 is \(96, 64\), those before it are \(48, 64\)"):
            read(tmp_path / "both.ts")
    for number, side in enumerate((8, 16)):
        Image.new("RGB", (8, side)).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match=f"{tmp_path.name}: the frames differ in size"):
        read_frames(tmp_path)
