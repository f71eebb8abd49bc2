"""Frames out of clips of every awkward kind; frames carry their number, so the right ones are seen to be taken."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from egptlib.scenes import frame_indices, read_frames, write_video
from egptlib.scenes._video import video_frame_count
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


def test_short_clip_repeats() -> None:
    assert frame_indices(3) == [0, 0, 0, 0, 1, 1, 1, 2]
    assert frame_indices(3, sampling="first") == [0, 1, 2, 2, 2, 2, 2, 2]


def test_variable_frame_rate_is_sampled_by_index(tmp_path: Path) -> None:
    times = [0, 10, 20, 30, 40, 50, 60, 70, 80, 2000, 4000, 6000]
    expected = frame_indices(12)
    assert numbers(encode(tmp_path / "clip.mp4", 12, times)) == (expected, expected)


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
        def __init__(self, frame: av.VideoFrame) -> None:
            self.frame = frame

        def to_ndarray(self, format: str) -> np.ndarray:
            nonlocal converted
            converted += 1
            return self.frame.to_ndarray(format=format)

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
