"""PNG files of every kind: both readers give the same upright eight-bit colours."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egptlib.scenes._images import read_frame, read_image

READERS = (read_image, read_frame)
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of PNG's colour types: grey, RGB, grey and alpha, RGB and alpha


def png(values: np.ndarray, colour: int, bits: int) -> bytes:
    """A PNG written by hand (ISO/IEC 15948), for the kinds that PIL does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = values.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour", CHANNELS)
def test_the_upper_eight_bits_of_every_kind(tmp_path: Path, colour: int, bits: int, read: Callable) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (6, 4, CHANNELS[colour]))
    (tmp_path / "frame.png").write_bytes(png(values, colour, bits))
    top = values >> (bits - 8)
    expected = top[..., :3] if colour in (2, 6) else top[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(read(tmp_path / "frame.png"), expected)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("turned", range(1, 9))
def test_pictures_are_upright_in_both_readers(tmp_path: Path, turned: int, read: Callable) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    orientation = Image.Exif()
    orientation[0x0112] = turned
    Image.fromarray(stored).save(tmp_path / "frame.png", exif=orientation)
    flipped = stored[:, ::-1] if turned in (2, 4, 5, 7) else stored
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[turned]
    np.testing.assert_array_equal(read(tmp_path / "frame.png"), np.rot90(flipped, turns))


def test_pixels_of_32_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "depth.tiff")
    with pytest.raises(ValueError, match=r"depth\.tiff: .*32-bit"):
        read_image(tmp_path / "depth.tiff")
