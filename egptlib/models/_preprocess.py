"""CLIP's image preprocessing: resize, centre crop, rescale, normalise, as `preprocessor_config.json` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from egptlib._paths import read_json

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TORCH_FILTERS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


@dataclass(frozen=True)
class Preprocessor:
    """Images to a tower's pixel values; the fields are those of `preprocessor_config.json`.

    Attributes:
        size: {"shortest_edge": pixels} keeps the aspect ratio, {"height", "width"} does not.
        crop_size: {"height", "width"} of the centre crop; what lies outside the image is black.
        resample: PIL's number of the filter (3: bicubic).
        backend: who resizes. "pil" is what the published models were trained with, bit for bit. "torch" takes a tenth
            of the time; its fixed-point weights have 16 bits, PIL's 22, so it is at most one grey level off where it
            makes pictures smaller, and two where larger. The mini pair's configs say "torch".
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
    backend: Literal["pil", "torch"] = "pil"

    def __post_init__(self) -> None:
        if self.backend not in ("pil", "torch"):
            raise ValueError(f"backend: expected 'pil' or 'torch', found {self.backend!r}")
        if self.backend == "torch" and self.resample not in TORCH_FILTERS:
            raise ValueError(f"resample: torch resizes with {sorted(TORCH_FILTERS)} only, found {self.resample}")

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
        try:
            return cls(**kept)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Preprocessor:
        """From a folder's `preprocessor_config.json`."""
        path = Path(folder, "preprocessor_config.json")
        try:
            settings = read_json(path)
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
        sized = np.stack([self.resized(image) for image in images])  # [n, S, S, 3]
        pixels = torch.from_numpy(sized).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        if self.do_rescale:
            pixels *= self.rescale_factor
        if self.do_normalize:
            mean, std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (self.image_mean, self.image_std))
            pixels.sub_(mean).div_(std)
        return pixels

    def resized(self, image: np.ndarray) -> np.ndarray:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"preprocess: expected uint8 RGB [H,W,3], found {image.dtype} {list(image.shape)}")
        if self.do_resize and self.backend == "torch":
            image = self._resized_by_torch(image)
        picture = Image.fromarray(image)
        if self.do_resize and self.backend == "pil":
            picture = picture.resize(self._resized_to(*picture.size), resample=self.resample)
        if self.do_center_crop and self.crop_size is not None:
            width, height = self.crop_size["width"], self.crop_size["height"]
            # transformers pads a smaller image on the left and top by the larger half, PIL's crop does it in one step
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        return np.asarray(picture)

    def _resized_by_torch(self, image: np.ndarray) -> np.ndarray:
        """On uint8 with the channels last: the layout for which torch has vector code."""
        width, height = self._resized_to(image.shape[1], image.shape[0])
        pixels = torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)[None]  # [1, 3, H, W]
        mode = TORCH_FILTERS[Image.Resampling(self.resample)]
        return F.interpolate(pixels, size=(height, width), mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()

    def _resized_to(self, width: int, height: int) -> tuple[int, int]:
        if "shortest_edge" not in self.size:
            return self.size["width"], self.size["height"]
        short, long = min(width, height), max(width, height)
        edge = self.size["shortest_edge"]
        scaled = int(edge * long / short)  # truncated, as transformers does
        return (edge, scaled) if width <= height else (scaled, edge)
