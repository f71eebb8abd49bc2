"""Opening a drafter and a target that belong together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from egptlib.models._event_model import EventModel
from egptlib.models._interface import Model
from egptlib.models._quantization import Quantization, loading_options
from egptlib.models._video_llava import Form, VideoModel

MINI_FOLDER = Path(__file__).with_name("mini")
"""Where the shipped weights are: `drafter/`, `target/`, and the model card."""


@dataclass(frozen=True)
class Pair:
    """A drafter and a target over one vocabulary.

    Attributes:
        num_shared_tokens: ids below it mean the same token to both; ids from there on are a model's own.
        load_seconds: "drafter" and "target" -> seconds from the call to weights in place; empty where nothing was
            loaded.
    """

    name: str
    drafter: Model
    target: Model
    num_shared_tokens: int
    load_seconds: dict[str, float] = field(default_factory=dict, compare=False)


def load_pair(
    name: str = "mini",
    *,
    eventgpt: str | Path | None = None,
    video_llava: str | Path | None = None,
    visual_tower: str | Path | None = None,
    quantization: Quantization = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    target_device: str | torch.device | None = None,
    form: Form = "video",
) -> Pair:
    """Open a pair of models.

    Args:
        name: "mini" (the small pair in this package) or "eventgpt-videollava" (the two 7B models).
        eventgpt, video_llava: checkpoint folders (or hub ids); needed for "eventgpt-videollava".
        visual_tower: folder of EventGPT's tower, see `EventGPT.from_pretrained`.
        quantization: "nf4" (4 bit, double quantization), "int8", or None.
        dtype: of weights and activations that are not quantized. None: float32 for "mini", bfloat16 for the 7B pair
            (float16 with "int8", whose kernels take nothing else).
        device, target_device: where drafter and target sit; None puts the target beside the drafter.
        form: how the target sees its frames, "video" or "images".

    Raises:
        ValueError: unknown name, missing or unfit checkpoint, or vocabularies that do not agree.

    Example:
        >>> pair = load_pair()  # the shipped mini pair
        >>> pair.drafter.name, pair.target.name, pair.num_shared_tokens
        ('EventGPT', 'Video-LLaVA', 768)
    """
    if name == "mini":
        eventgpt, video_llava = eventgpt or MINI_FOLDER / "drafter", video_llava or MINI_FOLDER / "target"
        for folder in (eventgpt, video_llava):
            if not Path(folder, "config.json").is_file():
                raise ValueError(f"{folder}: the mini pair's weights are not here; make them with `egptlib train-mini`")
    elif name != "eventgpt-videollava":
        raise ValueError(f"pair: expected 'mini' or 'eventgpt-videollava', found {name!r}")
    if eventgpt is None or video_llava is None:
        raise ValueError(f"pair {name!r}: expected the checkpoint folders eventgpt=... and video_llava=...")
    if dtype is None and name == "mini" and quantization is None:
        dtype = torch.float32
    drafter_options: dict[str, Any] = loading_options(quantization, dtype, device)
    target_options = loading_options(quantization, dtype, target_device or device)
    start = time.perf_counter()
    drafter = EventModel.from_pretrained(eventgpt, visual_tower, **drafter_options)
    between = time.perf_counter()
    target = VideoModel.from_pretrained(video_llava, form, **target_options)
    seconds = {"drafter": between - start, "target": time.perf_counter() - between}
    return Pair(name, drafter, target, num_shared_tokens(drafter, target), seconds)


def num_shared_tokens(drafter: Model, target: Model) -> int:
    """How many ids, from 0 on, stand for the same token in both vocabularies.

    Raises:
        ValueError: they differ within the tokens that both were trained with (added specials may differ); the
            first such id is named.
    """
    num_trained = min(drafter.tokenizer.vocab_size, target.tokenizer.vocab_size)
    size = min(len(drafter.tokenizer), len(target.tokenizer), drafter.vocab_size, target.vocab_size)
    theirs = drafter.tokenizer.convert_ids_to_tokens(list(range(size)))
    ours = target.tokenizer.convert_ids_to_tokens(list(range(size)))
    shared = next((i for i in range(size) if theirs[i] != ours[i]), size)
    if shared < min(num_trained, size):
        raise ValueError(
            f"pair: {drafter.name} and {target.name} need one vocabulary; they differ from id {shared} on: "
            f"{theirs[shared]!r} and {ours[shared]!r}"
        )
    return shared
