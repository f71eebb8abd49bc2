"""Frames as a clip: what transformers' video processors make of them, with PIL where those need torchvision."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.video_processing_utils import VideoProcessorMixin

from egptlib.models._checkpoint import read_config
from egptlib.models._preprocess import Preprocessor

if TYPE_CHECKING:
    from egptlib.scenes import FrameSampling

Settings = dict[str, Any]
NEEDED = ("size", "image_mean", "image_std")


class ClipProcessor(VideoProcessorMixin):
    """In the place of a processor's video processor.

    Attributes:
        settings: those of the checkpoint's video processor; its fields are attributes too, as transformers reads them.
        makes: from frames uint8 [n, H, W, 3] and the settings to pixel values; None for a processor whose clips are
            not known here, which then sees frames as images.
    """

    def __init__(self, folder: Path, processor_name: str):
        self.processor_name = processor_name
        self.settings, self.source = clip_settings(folder)
        for name, value in self.settings.items():
            setattr(self, name, value)

    @property
    def makes(self) -> Callable[[np.ndarray, Settings], dict[str, Tensor]] | None:
        return CLIPS.get(self.processor_name)

    @property
    def sampling(self) -> FrameSampling:
        """How frames are taken from a clip: by its own rule, or evenly where it has none."""
        return self.sampled if self.processor_name in SAMPLING else "even"

    def sampled(self, length: int, rate: float | None) -> list[int]:
        """Which frames of a clip of so many, `rate` a second, the checkpoint's video processor takes.

        Raises:
            ValueError: it counts by the second, and the rate is not known.
        """
        if rate is None:
            raise ValueError(f"{self.processor_name} takes frames by the second, and the clip's rate is unknown")
        return SAMPLING[self.processor_name](length, rate, self.settings)

    def check(self) -> None:
        """Raise ValueError where the checkpoint does not say what clips are made with."""
        more = ("max_image_size", "num_frames", "fps") if self.makes is _smolvlm else ()
        more = ("patch_size", "merge_size", "temporal_patch_size") if self.makes in (_qwen2, _qwen3) else more
        for name in (*NEEDED, *more):
            if name not in self.settings:
                raise ValueError(f"{self.source}: {name}: expected a value, found none")
        if self.settings.get("cap_pixels_per_frame"):
            raise ValueError(f"{self.source}: cap_pixels_per_frame: expected false, which alone is known here")

    def __call__(self, videos: Any, video_metadata: Any = None, **_: Any) -> BatchFeature:
        """One clip, [[n, H, W, 3]] or [[[n, H, W, 3]]]."""
        assert self.makes is not None
        frames = np.asarray(videos)
        made = self.makes(frames.reshape(-1, *frames.shape[-3:]), self.settings)
        told = video_metadata[0] if isinstance(video_metadata, list) else video_metadata
        return BatchFeature({**made, "video_metadata": [told]})


def clip_settings(folder: Path) -> tuple[Settings, str]:
    """Of a folder's video processor, and the file; without one, the image processor's, as transformers does."""
    for file in ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / file).is_file():
            settings = read_config(folder, file)
            if file == "processor_config.json":
                settings = settings.get("video_processor", {})
            if settings:
                return _today(settings), str(folder / file)
    return {}, str(folder / "video_preprocessor_config.json")


def _today(settings: Settings) -> Settings:
    """Settings of Qwen's and SmolVLM's older files under the names that they have today."""
    if "min_pixels" in settings and "size" not in settings:
        size = {"shortest_edge": settings["min_pixels"], "longest_edge": settings["max_pixels"]}
        return settings | {"size": size}
    if older := settings.get("video_sampling"):
        return settings | {"num_frames": older["max_frames"], "fps": older["fps"], "size": older["video_size"]}
    return settings


def _qwen2_frames(length: int, rate: float, settings: Settings) -> list[int]:
    """`fps` frames a second (2 as in Qwen's own code where nothing is told), a multiple of what a patch is deep."""
    deep = settings["temporal_patch_size"]
    least, most = settings.get("min_frames", 4), settings.get("max_frames", 768)
    most = min(most, length) // deep * deep
    count = min(max(length / rate * settings.get("fps", 2), least), most, length) // deep * deep
    return [int(index) for index in torch.arange(0, length, length / max(count, 1)).int()]


def _qwen3_frames(length: int, rate: float, settings: Settings) -> list[int]:
    """`fps` frames a second, from the first to the last."""
    least, most = settings.get("min_frames", 4), settings.get("max_frames", 768)
    count = min(max(int(length / rate * settings.get("fps", 2)), least), most, length)
    return [int(index) for index in np.linspace(0, length - 1, count).round()]


def _smolvlm_frames(length: int, rate: float, settings: Settings) -> list[int]:
    """`fps` frames a second but `num_frames` at most, without the first and last second of a long clip."""
    seconds, most, fps = length / rate, settings["num_frames"], settings["fps"]
    count = max(min(round(fps * seconds), most), 1)
    first, last = 0, length - 1
    if seconds - 2 > most * fps:
        first, last = int(rate), min(int(length - rate), last)
    return sorted({int(index) for index in np.linspace(first, last, count)})


def _plain(frames: np.ndarray, settings: Settings) -> dict[str, Tensor]:
    """[1, n, 3, S, S]: resized, cropped where a crop is told, normalised."""
    return {"pixel_values_videos": _preprocessor(settings, settings["size"], settings.get("crop_size"))(frames)[None]}


def _smolvlm(frames: np.ndarray, settings: Settings) -> dict[str, Tensor]:
    """[1, n, 3, S, S], resized twice: the longer side to `size`, then both to `max_image_size`."""
    longest, side = settings["size"]["longest_edge"], settings["max_image_size"]["longest_edge"]
    height, width = frames.shape[1:3]
    shorter = int(longest * min(height, width) / max(height, width))
    shorter += shorter % 2
    first = {"height": shorter, "width": longest} if width >= height else {"height": longest, "width": shorter}
    resized = np.stack([_preprocessor(settings, first).resized(frame) for frame in frames])
    pixels = _preprocessor(settings, {"height": side, "width": side})(resized)[None]
    return {"pixel_values": pixels, "pixel_attention_mask": torch.ones(1, len(frames), side, side, dtype=torch.long)}


def _qwen2(frames: np.ndarray, settings: Settings) -> dict[str, Tensor]:
    """Patches of two frames, as many pixels a frame as `size` says."""
    return _qwen(frames, settings, 1)


def _qwen3(frames: np.ndarray, settings: Settings) -> dict[str, Tensor]:
    """Patches of two frames, as many pixels a clip as `size` says."""
    return _qwen(frames, settings, len(frames))


def _qwen(frames: np.ndarray, settings: Settings, counted: int) -> dict[str, Tensor]:
    """[t * h * w, 3 * 2 * patch * patch], patches that are merged later side by side, and the grid [[t, h, w]].

    Args:
        counted: frames whose pixels `size` counts.
    """
    patch, merge, deep = (settings[name] for name in ("patch_size", "merge_size", "temporal_patch_size"))
    height, width = _fitting(frames.shape[1:3], patch * merge, settings["size"], counted, deep)
    pixels = _preprocessor(settings, {"height": height, "width": width})(frames)
    if lacking := -len(pixels) % deep:
        pixels = torch.cat([pixels, pixels[-1:].expand(lacking, -1, -1, -1)])
    t, h, w = len(pixels) // deep, height // patch, width // patch
    blocks = pixels.view(t, deep, 3, h // merge, merge, patch, w // merge, merge, patch)
    blocks = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # [t, h', w', merge, merge, 3, deep, patch, patch]
    return {"pixel_values_videos": blocks.reshape(t * h * w, -1), "video_grid_thw": torch.tensor([[t, h, w]])}


def _fitting(sides: tuple[int, ...], factor: int, size: dict[str, int], counted: int, deep: int) -> tuple[int, int]:
    """Sides that are multiples of `factor`, near the given ones, with a number of pixels within `size`."""
    least, most = size["shortest_edge"], size["longest_edge"]
    if counted > 1 and min(sides) < factor:
        sides = tuple(int(side * factor / min(sides)) for side in sides)
    rounded = [round(side / factor) * factor for side in sides]
    whole = counted if counted == 1 else round(counted / deep) * deep
    pixels = counted * sides[0] * sides[1]
    if whole * rounded[0] * rounded[1] > most:
        scale = math.sqrt(pixels / most)
        rounded = [max(factor, math.floor(side / scale / factor) * factor) for side in sides]
    elif whole * rounded[0] * rounded[1] < least:
        scale = math.sqrt(least / pixels)
        rounded = [math.ceil(side * scale / factor) * factor for side in sides]
    return rounded[0], rounded[1]


def _preprocessor(settings: Settings, size: dict[str, int], crop: dict[str, int] | None = None) -> Preprocessor:
    return Preprocessor.from_dict(settings | {"size": size, "crop_size": crop, "do_center_crop": bool(crop)})


CLIPS: dict[str, Callable[[np.ndarray, Settings], dict[str, Tensor]]] = {
    "InternVLProcessor": _plain,
    "LlavaNextVideoProcessor": _plain,
    "LlavaOnevisionProcessor": _plain,
    "Qwen2VLProcessor": _qwen2,
    "Qwen2_5_VLProcessor": _qwen2,
    "Qwen3VLProcessor": _qwen3,
    "SmolVLMProcessor": _smolvlm,
    "VideoLlavaProcessor": _plain,
}
"""Processors that take clips, and what makes their pixel values."""

SAMPLING: dict[str, Callable[[int, float, Settings], list[int]]] = {
    "Qwen2VLProcessor": _qwen2_frames,
    "Qwen2_5_VLProcessor": _qwen2_frames,
    "Qwen3VLProcessor": _qwen3_frames,
    "SmolVLMProcessor": _smolvlm_frames,
}
"""Those that choose the frames of a clip by its length; the others are shown what a scene holds."""
