"""PNG files: read as RGB, and written fast."""

import re
from os import PathLike
from pathlib import Path

import numpy as np


def frame_files(folder: str | PathLike[str]) -> list[Path]:
    """Return the PNG files of a folder in the order of the numbers in their names: 2.png before 10.png."""
    return sorted(Path(folder).glob("*.png"), key=lambda path: natural(path.name))


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort by this key to have names in the order of the numbers in them."""
    parts = re.split(r"([0-9]+)", name)
    # texts stand at even places, numbers at odd ones; the whole name tells 1.png from 01.png
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name


def read_image(path: str | PathLike[str]) -> np.ndarray:
    """Read a picture as uint8 [H, W, 3] RGB, upright; of 16 bits a pixel, the upper eight.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a complete picture, or its pixels are 32-bit numbers.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    try:
        with Image.open(path) as file:
            image: Image.Image = file
            ImageOps.exif_transpose(image, in_place=True)  # as OpenCV does; without `in_place` it copies
            if image.mode.startswith("I;16"):  # convert("RGB") would turn every value above 255 white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}); expected 8 or 16 bits")
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image: {error}") from error


def read_frame(path: str | PathLike[str]) -> np.ndarray:
    """As `read_image`, but nearly twice as fast; of a damaged file libpng also complains on stderr."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    return read_image(path) if image is None else np.asarray(image, dtype=np.uint8)


def write_png(path: str | PathLike[str], image: np.ndarray, level: int = 1, flat: bool = False) -> None:
    """Write uint8 [H, W, 3] RGB as a PNG. NOT atomic: for folders that get an index once they are complete.

    Args:
        level: zlib level; 0 stores the pixels, 1 is the fastest that compresses.
        flat: the picture has few colours and long equal runs (an event image): skipping the row filter then
            halves both the time and the file.
    """
    import cv2

    row_filter = cv2.IMWRITE_PNG_FILTER_NONE if flat else cv2.IMWRITE_PNG_FILTER_SUB
    strategy = cv2.IMWRITE_PNG_STRATEGY_RLE if flat else cv2.IMWRITE_PNG_STRATEGY_DEFAULT
    options = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_FILTER, row_filter]
    options += [cv2.IMWRITE_PNG_STRATEGY, strategy]
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"{path}: cannot encode {image.dtype} {image.shape} as PNG")
    Path(path).write_bytes(data.tobytes())
