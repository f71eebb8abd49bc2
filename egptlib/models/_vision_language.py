"""Any vision-language checkpoint of transformers behind the common interface, as target or as drafter.

The checkpoint's own processor and chat template make the prompt. Its own class makes what the language model reads: the
arguments with which it would call its language model are caught on the way, so visual tokens, positions (M-RoPE), masks
(Gemma 3) and visual inputs of further layers (DeepStack) are the class's own, and a new family needs no code here.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.video_utils import VideoMetadata

from egptlib.models._checkpoint import checked_from_pretrained, checkpoint_folder
from egptlib.models._interface import Model, PromptAs
from egptlib.models._processors import Remembered, load_processor
from egptlib.models._state import Inputs, Prompt
from egptlib.models._video_llava import Form, Sees

if TYPE_CHECKING:
    from egptlib.scenes import FrameSampling

PIXELS = ("pixel_values", "pixel_values_images", "pixel_values_videos")
UNKNOWN_RATE = 24.0  # frames a second, what transformers takes where nothing is known
NOT_OF_THE_PROMPT = ("inputs_embeds", "input_ids", "past_key_values", "use_cache", "return_dict")


@dataclass
class PictureInputs(Inputs):
    """As `Inputs`, with what the processor made besides.

    Attributes:
        visual: what the towers made of each kind of picture ("image", "video").
        fields: the processor's other fields, named as the model takes them.
        pictures, clip, processed: uint8 [n, H, W, 3], which frames they are, and what was made of them, for further
            questions.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    pictures: Sequence[np.ndarray] = ()
    clip: VideoMetadata | None = None
    processed: dict[str, Any] | None = None


class VisionLanguageModel(Model):
    """A checkpoint of one of transformers' image-text-to-text classes.

    Attributes:
        sees: which pictures of a scene it is shown, "events" or "frames".
        form: "video": the frames are one clip; "images": one by one. Event images are always shown one by one, and so
            are frames where the class or its processor has no clips.
        prompt: what is asked, with `{question}` in it; the chat template goes around it.
    """

    def __init__(
        self,
        module: Any,
        processor: Any,
        sees: Sees = "frames",
        form: Form = "video",
        name: str | None = None,
        prompt: str | None = None,
    ):
        if sees not in get_args(Sees) or form not in get_args(Form):
            raise ValueError(
                f"expected sees of {get_args(Sees)} and form of {get_args(Form)}, found {sees!r}, {form!r}"
            )
        if prompt is not None and ("{question}" not in prompt or "{frames}" in prompt):
            raise ValueError(f"prompt: expected {{question}} and no {{frames}} (the template places them): {prompt!r}")
        name = name or type(module).__name__.removesuffix("ForConditionalGeneration")
        super().__init__(name, module, processor.tokenizer, None, module.get_decoder())
        clips = getattr(getattr(processor, "video_processor", None), "makes", None) is not None
        self.sees, self.prompt = sees, prompt or "{question}"
        self.form: Form = form if clips and sees == "frames" else "images"
        if self.form == "video":
            processor.video_processor.check()
        self.processor = processor
        self._pictures = "video_processor" if self.form == "video" else "image_processor"
        setattr(processor, self._pictures, Remembered(getattr(processor, self._pictures)))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        sees: Sees = "frames",
        form: Form = "video",
        name: str | None = None,
        prompt: str | None = None,
        **kwargs: Any,
    ) -> VisionLanguageModel:
        """Open a checkpoint folder (or hub id); kwargs are those of transformers' `from_pretrained`."""
        folder = checkpoint_folder(folder)
        module = checked_from_pretrained(AutoModelForImageTextToText.from_pretrained, folder, **kwargs)
        return cls(module, load_processor(folder), sees, form, name, prompt)

    @property
    def sampling(self) -> FrameSampling:
        return self.processor.video_processor.sampling if self.form == "video" else "even"

    def encode(self, scene: Any, question: str, like: Inputs | None = None) -> Inputs:
        if like is None:
            like = self._shown(scene)
        assert isinstance(like, PictureInputs)
        kind = "video" if self.form == "video" else "image"
        shown = [like.pictures] if kind == "video" else like.pictures
        content = [{"type": kind, kind: pictures} for pictures in shown]
        content.append({"type": "text", "text": self.prompt.replace("{question}", question)})
        remembered = getattr(self.processor, self._pictures)
        remembered.given = like.processed
        fields = dict(
            self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"video_metadata": like.clip} if kind == "video" else {},
            )
        )
        pixels = next(fields[name] for name in PIXELS if name in fields)
        ids = fields.pop("input_ids")
        del fields["attention_mask"]  # one prompt has no padding
        return PictureInputs(ids, pixels, like.visual, fields, like.pictures, like.clip, remembered.given)

    @torch.no_grad()
    def embed(self, inputs: Inputs) -> Prompt:
        given = self._given(inputs)
        pixels = [name for name in PIXELS if name in given]
        inputs.visual = inputs.visual or _see(self.module.base_model, given)
        seen = {name: value for name, value in given.items() if name not in pixels}
        caught = _caught(self.module, self.language_model, seen | {"mm_encoder_outputs": dict(inputs.visual)})
        embeds = caught["inputs_embeds"]
        more = {name: v for name, v in caught.items() if v is not None and name not in NOT_OF_THE_PROMPT}
        return Prompt(embeds, more, inputs.input_ids[0])

    def generate_inputs(self, inputs: Inputs, prompt_as: PromptAs | None = None) -> dict[str, Any]:
        if prompt_as == "embeddings":
            return super().generate_inputs(inputs, prompt_as)
        given = self._given(inputs)
        return given | {"attention_mask": torch.ones_like(given["input_ids"])}

    def _given(self, inputs: Inputs) -> dict[str, Any]:
        assert isinstance(inputs, PictureInputs)
        given = {"input_ids": inputs.input_ids, **inputs.fields}
        given = {name: value.to(self.device) if hasattr(value, "to") else value for name, value in given.items()}
        return {name: value.to(self.dtype) if name in PIXELS else value for name, value in given.items()}

    def _shown(self, scene: Any) -> PictureInputs:
        pictures = scene.event_images if self.sees == "events" else scene.frames
        clip = _clip_of(scene) if self.form == "video" else None
        return PictureInputs(torch.empty(0), torch.empty(0), pictures=pictures, clip=clip)


def _see(base: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What the towers make of the pictures, as `generate` asks them for it."""
    seen = {}
    for kind in ("image", "video"):
        tower: Any = getattr(base, f"get_{kind}_features", None)
        names = inspect.signature(tower).parameters if tower is not None else {}
        fields = {name: value for name, value in given.items() if name in names}
        if any(name in PIXELS for name in fields):
            seen[kind] = tower(**fields, return_dict=True)
    return seen


class _Caught(Exception):
    """Ends a pass where the language model would begin."""


def _caught(module: Any, language_model: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with which a model calls its language model."""
    caught: dict[str, Any] = {}

    def catch(_: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        caught.update(named)
        raise _Caught

    handle = language_model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        module.base_model(**given, use_cache=False)
    except _Caught:
        return caught
    finally:
        handle.remove()
    raise ValueError(f"{type(module).__name__}: its forward pass does not call its language model")


def _clip_of(scene: Any) -> VideoMetadata:
    """Which frames of which clip a scene shows: some prompts tell their times."""
    indices = list(getattr(scene, "frame_indices", ()) or range(len(scene.frames)))
    length, rate = scene.metadata.get("clip") or (indices[-1] + 1, None)
    rate = rate or UNKNOWN_RATE
    return VideoMetadata(
        total_num_frames=length, fps=rate, frames_indices=indices, duration=length / rate, video_backend="pyav"
    )
