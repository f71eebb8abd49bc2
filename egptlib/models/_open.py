"""Opening any checkpoint as one side of a pair, and the check that a class unknown here is used as it is meant."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from egptlib.models._checkpoint import checkpoint_folder, first_line, read_config
from egptlib.models._clips import ClipProcessor
from egptlib.models._event_model import EventModel
from egptlib.models._eventgpt import EventGPTConfig
from egptlib.models._interface import Model
from egptlib.models._language_model import LanguageModel
from egptlib.models._pair_file import PairSettings, pair_settings
from egptlib.models._processors import processor_name
from egptlib.models._video_llava import Form, Sees, VideoModel
from egptlib.models._vision_language import VisionLanguageModel

if TYPE_CHECKING:
    from egptlib.scenes import FrameSampling

TESTED = {
    *("gemma3", "idefics3", "internvl", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm"),
    *("llama", "qwen2"),
}
"""Model types (of `config.json`) whose answers the tests compare with `generate`'s; others are compared at loading."""


def open_model(
    folder: str | Path,
    sees: Sees,
    *,
    visual_tower: str | Path | None = None,
    form: Form = "video",
    prompt: str | None = None,
    **options: Any,
) -> Model:
    """Open a checkpoint folder (or hub id), recognised by the `model_type` of its `config.json`.

    Args:
        sees: "events" (a drafter) or "frames" (a target). EventGPT and text-only language models can only draft.
        visual_tower: see `EventGPT.from_pretrained`; other models have theirs with them.
        form, prompt: see `VideoModel` and `VisionLanguageModel`.
        **options: for transformers' `from_pretrained` (see `loading_options`).

    Raises:
        ValueError: a class that cannot be opened on this side, an unfit checkpoint, or a class that is not among
            `TESTED` and whose first answer differs from transformers' own; file, class or difference is named.
    """
    folder = checkpoint_folder(folder)
    kind = str(read_config(folder).get("model_type"))
    if kind == EventGPTConfig.model_type and sees == "events":
        return EventModel.from_pretrained(folder, visual_tower, **options)
    if kind == "video_llava":
        return VideoModel.from_pretrained(folder, form, prompt=prompt, sees=sees, **options)
    model: Model
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        model = VisionLanguageModel.from_pretrained(folder, sees, form, prompt=prompt, **options)
    elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and sees == "events":
        model = LanguageModel.from_pretrained(folder, **options)
    else:
        expected = "EventGPT, a vision-language or a language model" if sees == "events" else "a vision-language model"
        raise ValueError(f"{folder}/config.json: model_type: expected {expected} of transformers, found {kind!r}")
    if kind not in TESTED:
        check_against_generate(model)
    return model


def frame_sampling(pair: str | Path | PairSettings) -> FrameSampling:
    """How a pair's target takes frames from a clip (its `Model.sampling`), from its configs alone."""
    settings = pair_settings(pair)
    folder = checkpoint_folder(settings.folder("target"), ["*.json"])
    kind = read_config(folder).get("model_type")
    if settings.form == "images" or kind == "video_llava" or kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "even"
    return ClipProcessor(folder, processor_name(folder)).sampling


def check_against_generate(model: Model, max_new_tokens: int = 8) -> None:
    """Compare a model's logits along `generate`'s answer to a made-up prompt with those of `generate`.

    Raises:
        ValueError: they differ by more than rounding in the model's dtype, or the prompt cannot be made or read here;
            model, token and difference, or what failed, are named.
    """
    try:
        expected, found = _first_answer(model, max_new_tokens)
    except Exception as error:  # a class that wants its pictures otherwise, say
        reason = first_line(error)
        raise ValueError(
            f"{model.name}: not usable: a first prompt fails ({type(error).__name__}: {reason})"
        ) from error
    difference = (found - expected).abs().amax(dim=1)
    allowed = 64 * torch.finfo(model.dtype).eps * expected.abs().max()
    for i, wrong in enumerate(difference.tolist()):
        if not wrong <= allowed:  # NaN is wrong too
            raise ValueError(
                f"{model.name}: not usable: at token {i + 1} of a first answer its logits differ from those of "
                f"transformers' generate by {wrong:.3g}, where {float(allowed):.1g} is rounding"
            )


@torch.no_grad()
def _first_answer(model: Model, max_new_tokens: int) -> tuple[Tensor, Tensor]:
    """Logits [n, V] along the answer of `generate` to a prompt of noise: its own, and ours."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 240, 320, 3), dtype=np.uint8)
    scene = SimpleNamespace(event_images=list(noise[:2]), frames=noise, metadata={})
    inputs = model.encode(scene, "What is happening?")
    given = model.generate_inputs(inputs)
    out = model.module.generate(
        **given, do_sample=False, max_new_tokens=max_new_tokens, output_logits=True, return_dict_in_generate=True
    )
    expected = torch.cat(out.logits).float()
    answer = out.sequences[0, -len(expected) :]
    state = model.prefill(inputs)
    hidden = [state.hidden[0, -1:]] + [model.read(token.view(1, 1), state)[0] for token in answer[:-1]]
    return expected, model.lm_head(torch.cat(hidden)).float()
