"""Preprocessing against the published pixel values and against transformers' own processor."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egptlib.models import Preprocessor

SIZES = [(480, 640), (37, 91), (224, 224), (30, 17), (301, 300)]
SETTINGS: list[dict[str, Any]] = [
    {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
    {"size": {"height": 112, "width": 112}, "do_center_crop": False},
    {"size": {"shortest_edge": 50}, "crop_size": {"height": 75, "width": 64}},
    {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}, "resample": 2, "do_normalize": False},
    {"size": {"height": 40, "width": 60}, "do_center_crop": False, "image_mean": [0, 0.1, 0.2], "image_std": [1, 2, 3]},
]


@pytest.mark.parametrize("name", ["eventgpt_5f", "eventgpt_1f"])
def test_golden_event_images(shared: Path, name: str) -> None:
    folder = shared / "golden" / name
    with np.load(folder / "event_images.npz") as images:
        made = Preprocessor.from_pretrained(folder / "clip")([images[key] for key in images.files])
    expected = load_file(folder / "expected.safetensors")["pixel_values"]
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_golden_video_frames(shared: Path) -> None:
    folder = shared / "golden" / "video_llava"
    with np.load(folder / "frames.npz") as stored:
        made = Preprocessor.square(224)(stored["frames"])
    expected = load_file(folder / "expected.safetensors")["pixel_values_videos"][0].float()
    difference = (made - expected).abs()
    assert difference.max() < 0.03
    assert difference.mean() < 2e-4


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_transformers(settings: dict[str, Any], size: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = CLIPImageProcessorPil(**settings)([image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(Preprocessor.from_dict(settings)([image]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", SIZES)
def test_torch_is_a_grey_level_or_two_off_at_most(settings: dict[str, Any], size: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    image.setflags(write=False)
    pil, fast = (Preprocessor.from_dict({**settings, "backend": backend}) for backend in ("pil", "torch"))
    difference = np.abs(pil.resized(image).astype(int) - fast.resized(image))
    assert difference.max() <= 2 and difference.mean() < 0.05
    if min(size) > 224:  # made smaller
        assert difference.max() <= 1 and difference.mean() < 0.01


def test_the_golden_pictures_by_torch(shared: Path) -> None:
    with np.load(shared / "golden" / "video_llava" / "frames.npz") as stored:
        pil, fast = Preprocessor.square(224), Preprocessor(**{**asdict(Preprocessor.square(224)), "backend": "torch"})
        difference = np.abs(np.stack([pil.resized(f).astype(int) - fast.resized(f) for f in stored["frames"]]))
    assert difference.max() <= 1 and difference.mean() < 0.01


def test_images_of_different_sizes_make_one_batch() -> None:
    images = [np.full((*size, 3), 200, dtype=np.uint8) for size in SIZES]
    made = Preprocessor.square(28)(images)
    assert made.shape == (5, 3, 28, 28)
    assert made.dtype == torch.float32
    assert all(torch.equal(one, made[0]) for one in made)


def test_older_spellings(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 28, "crop_size": 28, "feature": "old"}))
    assert Preprocessor.find([tmp_path / "absent", tmp_path], 28) == Preprocessor.square(28)
    assert Preprocessor.find([tmp_path / "absent"], 56) == Preprocessor.square(56)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    preprocess = Preprocessor.square(28)
    with pytest.raises(ValueError, match=r"uint8 RGB \[H,W,3\], found float64 \[9, 9, 3\]"):
        preprocess([np.zeros((9, 9, 3))])
    with pytest.raises(ValueError, match="at least one image"):
        preprocess([])
    path = tmp_path / "preprocessor_config.json"
    for content, message in [
        ("{", "readable"),
        ('{"size": {"longest_edge": 3}}', "size: expected shortest_edge"),
        ('{"size": 28}', "crop_size: expected height and width, found None"),
        ('{"size": 28, "crop_size": 28}', "expected pictures of 56 x 56"),
        ('{"size": 28, "crop_size": 28, "backend": "x"}', "backend: expected 'pil' or 'torch', found 'x'"),
        ('{"size": 28, "crop_size": 28, "backend": "torch", "resample": 1}', "resample: torch resizes with"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message) as error:
            Preprocessor.find([tmp_path], 56)
        assert str(path) in str(error.value)
