"""Small dataset folders and recordings, written with plain numpy, PIL and PyAV as a user's own tools would."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image


def random_events(count: int, seed: int = 0, height: int = 24, width: int = 32, span_us: int = 1_000_000) -> dict:
    """Events on a small sensor, sorted by time."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.integers(0, width, count).astype(np.uint16),
        "y": rng.integers(0, height, count).astype(np.uint16),
        "t": np.sort(rng.integers(0, span_us, count)).astype(np.int64),
        "p": rng.integers(0, 2, count).astype(np.uint8),
    }


def numbered_frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A flat grey frame from which its number can be read back after lossy compression: see `frame_number`."""
    return np.full((height, width, 3), 20 + 8 * number, dtype=np.uint8)


def frame_number(frame: np.ndarray) -> int:
    return round((float(frame.mean()) - 20) / 8)


def encode(path: Path, count: int, times: list[int] | None = None) -> Path:
    """Write `count` numbered frames with PyAV alone; the suffix chooses the container; `times` in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(count):
            picture = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            if times is not None:
                from fractions import Fraction

                picture.pts, picture.time_base = times[number], Fraction(1, 1000)
                stream.codec_context.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """Two sequences of two samples with every part of the users' format present."""
    root = tmp_path / "my_egpt_dsec_test" / "my_egpt_dsec_seq_1s"
    entries: list[dict[str, Any]] = []
    for sequence in ("interlaken_00_a", "zurich_city_01_b"):
        for clip in range(2):
            stem = f"{sequence}/{clip:06d}"
            entries.append(
                {
                    "id": f"{sequence}-{clip}",
                    "split": root.name,
                    "event_data": f"{stem}.npy",
                    "video_data": stem,
                    "mp4_data": f"{stem}.mp4",
                    "event_image": [f"{stem}_{view}.png" for view in range(5)],
                    "event_image_1f": [f"{stem}_0.png"],
                    "conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": ""}],
                }
            )
            write_sample(root, stem, seed=len(entries))
    write_entries(root, entries)
    return root


def write_sample(root: Path, stem: str, seed: int) -> None:
    """One sample's files; stored pictures are flat colours that no renderer makes, so a test sees which were read."""
    events = random_events(500, seed)
    record = {**events, "time_start": 0, "time_end": 1_000_000, "duration_ms": 1000.0, "num_events": 500}
    record |= {"image_timestamp": np.int64(0), "image_idx": 0, "image_indices_in_clip": list(range(20))}
    path = root / "event_npy" / f"{stem}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(record, dtype=object), allow_pickle=True)
    for view in range(5):
        _save_png(root / "event_image" / f"{stem}_{view}.png", (10 * view, 100, seed))
    _save_png(root / "event_image_1f" / f"{stem}_0.png", (200, 100, seed))
    encode(root / "mp4" / f"{stem}.mp4", 20)
    for number in range(20):
        path = root / "video" / stem / f"{1000 + number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbered_frame(number)).save(path)


def _save_png(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), colour).save(path)


def write_entries(root: Path, entries: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "EventGPT_Instruction_Subset.json").write_text(json.dumps(entries))


def read_entries(root: Path) -> list[dict[str, Any]]:
    return json.loads((root / "EventGPT_Instruction_Subset.json").read_text())
