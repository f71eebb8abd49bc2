"""CLIP's image preprocessing on PIL: resize, centre crop, rescale, normalise, as `preprocessor_config.json` says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessor:
    """Images to a tower's pixel values; the fields are those of `preprocessor_config.json`.

    Attributes:
        size: {"shortest_edge": pixels} keeps the aspect ratio, {"height", "width"} does not.
        crop_size: {"height", "width"} of the centre crop; what lies outside the image is black.
        resample: PIL's number of the filter (3: bicubic).
    """

    size: dict[str, int]
    crop_size: dict[str, int] | None = None
    do_resize: bool = True
    do_center_crop: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    resample: int = Image.Resampling.BICUBIC
    rescale_factor: float = 1 / 255
    image_mean: Sequence[float] = CLIP_MEAN
    image_std: Sequence[float] = CLIP_STD

    @classmethod
    def square(cls, image_size: int, crop: bool = True) -> Preprocessor:
        """CLIP's own settings at another size; crop=False squashes the image to the square instead."""
        square = {"height": image_size, "width": image_size}
        if crop:
            return cls(size={"shortest_edge": image_size}, crop_size=square)
        return cls(size=square, do_center_crop=False)

    @classmethod
    def from_dict(cls, settings: dict[str, Any], source: str | Path = "preprocessor config") -> Preprocessor:
        """From the content of `preprocessor_config.json`, older spellings (a plain integer size) included."""
        known = {f.name for f in fields(cls)}
        kept = {key: value for key, value in settings.items() if key in known and value is not None}
        if isinstance(kept.get("size"), int):
            kept["size"] = {"shortest_edge": kept["size"]}
        if isinstance(kept.get("crop_size"), int):
            kept["crop_size"] = {"height": kept["crop_size"], "width": kept["crop_size"]}
        size, crop = kept.setdefault("size", {"shortest_edge": 224}), kept.get("crop_size")
        if not ("shortest_edge" in size or {"height", "width"} <= set(size)):
            raise ValueError(f"{source}: size: expected shortest_edge or height and width, found {size}")
        if kept.get("do_center_crop", True) and not (crop and {"height", "width"} <= set(crop)):
            raise ValueError(f"{source}: crop_size: expected height and width, found {crop}")
        return cls(**kept)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Preprocessor:
        """From a folder's `preprocessor_config.json`."""
        path = Path(folder, "preprocessor_config.json")
        try:
            settings = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: expected a readable preprocessor config ({error})") from None
        return cls.from_dict(settings, path)

    @classmethod
    def find(cls, folders: Sequence[Path], image_size: int) -> Preprocessor:
        """From the first folder that has a `preprocessor_config.json`; CLIP's own settings where none has.

        Raises:
            ValueError: the pictures it makes are not `image_size` wide and high.
        """
        for folder in folders:
            if (folder / "preprocessor_config.json").is_file():
                found = cls.from_pretrained(folder)
                made = found.crop_size if found.do_center_crop else found.size
                if made != {"height": image_size, "width": image_size}:
                    raise ValueError(
                        f"{folder}/preprocessor_config.json: expected pictures of {image_size} x {image_size} as "
                        f"the tower's config says, found {made}"
                    )
                return found
        return cls.square(image_size)

    def __call__(self, images: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
        """Preprocess images.

        Args:
            images: uint8 RGB arrays [H, W, 3], possibly of different sizes.

        Returns:
            float32 [n, 3, S, S].
        """
        if len(images) == 0:
            raise ValueError("preprocess: expected at least one image, found none")
        values = self._values_of_levels()
        pixels = []
        for image in images:
            resized = self.resized(image)
            pixels.append([values[c].take(resized[..., c]) for c in range(3)])  # a look-up, not float arithmetic
        return torch.from_numpy(np.array(pixels))

    def _values_of_levels(self) -> np.ndarray:
        """What each of the 256 grey levels becomes in each channel: float32 [3, 256]."""
        levels = np.tile(np.arange(256, dtype=np.float32), (3, 1))
        if self.do_rescale:
            levels = levels * np.float32(self.rescale_factor)
        if self.do_normalize:
            mean, std = (np.asarray(v, dtype=np.float32)[:, None] for v in (self.image_mean, self.image_std))
            levels = (levels - mean) / std
        return levels

    def resized(self, image: np.ndarray) -> np.ndarray:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"preprocess: expected uint8 RGB [H,W,3], found {image.dtype} {list(image.shape)}")
        picture = Image.fromarray(image)
        if self.do_resize:
            picture = picture.resize(self._resized_to(*picture.size), resample=self.resample)
        if self.do_center_crop and self.crop_size is not None:
            width, height = self.crop_size["width"], self.crop_size["height"]
            # transformers pads a smaller image on the left and top by the larger half, PIL's crop does it in one step
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        return np.asarray(picture)

    def _resized_to(self, width: int, height: int) -> tuple[int, int]:
        if "shortest_edge" not in self.size:
            return self.size["width"], self.size["height"]
        short, long = min(width, height), max(width, height)
        edge = self.size["shortest_edge"]
        scaled = int(edge * long / short)  # truncated, as transformers does
        return (edge, scaled) if width <= height else (scaled, edge)
