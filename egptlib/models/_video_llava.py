"""Video-LLaVA: transformers' class behind the common interface, in both input forms, or with few visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from egptlib.models._checkpoint import checked_from_pretrained, checkpoint_folder, load_tokenizer, read_config
from egptlib.models._interface import Model, PromptAs
from egptlib.models._preprocess import Preprocessor
from egptlib.models._prompts import EVENTS_PROMPT, IMAGE_TOKEN, VIDEO_TOKEN, tokenize_video_llava, video_llava_prompt
from egptlib.models._state import Inputs

Form = Literal["video", "images"]
Sees = Literal["events", "frames"]


def load_video_llava(folder: str | Path, **kwargs: Any) -> VideoLlavaForConditionalGeneration:
    """Open a Video-LLaVA checkpoint, folder or hub id; kwargs are those of transformers' `from_pretrained`.

    Raises:
        ValueError: the checkpoint is of another class (a plain LLaVA, whose weights would open and babble, is named
            as such), or its weights do not fill the model.
    """
    folder = checkpoint_folder(folder)
    config = read_config(folder)
    found, classes = config.get("model_type"), config.get("architectures") or []
    kind = GroupedVideoLlava if config.get("patch_blocks") else VideoLlavaForConditionalGeneration
    if found != "video_llava" or any(name != kind.__name__ for name in classes):
        plain = "a plain LLaVA" if "llava" in str(found) and found != "video_llava" else "another model"
        raise ValueError(
            f"{folder}/config.json: model_type: expected 'video_llava' with {kind.__name__} "
            f"(LanguageBind/Video-LLaVA-7B-hf), found {plain}: {found!r} with {', '.join(classes) or 'no class'}"
        )
    return checked_from_pretrained(kind.from_pretrained, folder, **kwargs)


class VideoModel(Model):
    """Video-LLaVA with its tokenizer and preprocessing.

    Attributes:
        form: "video": one `<video>` token stands for the clip and the video tower reads it, CLS tokens kept (8 x 257
            visual tokens for the real model); "images": one `<image>` token per frame and the image tower (8 x 256).
            A config with `patch_blocks` gives one visual token a block in both (`GroupedVideoLlava`).
            Event images are always shown one by one.
        prompt: template, see `video_llava_prompt`.
        sees: which pictures of a scene it is shown.
    """

    module: VideoLlavaForConditionalGeneration

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        preprocessor: Preprocessor,
        form: Form = "video",
        name: str = "Video-LLaVA",
        prompt: str | None = None,
        sees: Sees = "frames",
    ):
        for field, value, kind in (("form", form, Form), ("sees", sees, Sees)):
            if value not in get_args(kind):
                raise ValueError(f"{field}: expected one of {get_args(kind)}, found {value!r}")
        super().__init__(name, module, tokenizer, preprocessor, module.model.language_model)
        self.sees = sees
        self.form: Form = form if sees == "frames" else "images"
        self.prompt = prompt or (EVENTS_PROMPT if sees == "events" else None)
        self._prompt("", 1)  # a template that does not fit is found here

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        form: Form = "video",
        name: str = "Video-LLaVA",
        prompt: str | None = None,
        sees: Sees = "frames",
        **kwargs: Any,
    ) -> VideoModel:
        """Open a checkpoint; see `load_video_llava`."""
        folder = checkpoint_folder(folder)
        module = load_video_llava(folder, **kwargs)
        preprocessor = Preprocessor.find([folder], module.config.vision_config.image_size)
        return cls(module, load_tokenizer(folder), preprocessor, form, name, prompt, sees)

    def encode(self, scene: Any, question: str, like: Inputs | None = None) -> Inputs:
        if like is not None:
            num_frames = like.pixel_values.shape[-4]
            return Inputs(self._ids(question, num_frames), like.pixel_values, like.visual)
        pixel_values = self.preprocessor(scene.event_images if self.sees == "events" else scene.frames)  # [n, 3, S, S]
        ids = self._ids(question, len(pixel_values))
        return Inputs(ids, pixel_values[None] if self.form == "video" else pixel_values)

    def embed(self, inputs: Inputs) -> Tensor:
        ids = inputs.input_ids.to(self.device)
        embeds = self.token_embedding(ids)
        if inputs.visual is None:
            inputs.visual = self.encode_frames(inputs.pixel_values)
        is_visual = (ids == self._visual_id)[..., None]
        if int(is_visual.sum()) != len(inputs.visual):
            raise ValueError(f"input_ids: expected {len(inputs.visual)} visual tokens, found {int(is_visual.sum())}")
        return embeds.masked_scatter(is_visual, inputs.visual.to(embeds.dtype))

    def generate_inputs(self, inputs: Inputs, prompt_as: PromptAs | None = None) -> dict[str, Any]:
        if prompt_as != "ids":
            return super().generate_inputs(inputs, prompt_as)
        ids, pixels = inputs.input_ids.to(self.device), inputs.pixel_values.to(self.device, self.dtype)
        kind = "videos" if self.form == "video" else "images"
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), f"pixel_values_{kind}": pixels}

    @property
    def frames_apart(self) -> bool:
        # transformers gives a clip's frames to CLIP's tower as a batch. A tower with attention over time, as
        # LanguageBind's own has, is another class.
        tower = self.module.model.video_tower if self.form == "video" else self.module.model.image_tower
        return type(tower) is CLIPVisionModel

    def joined(self, seen: Sequence[Inputs], num_frames: int, question: str) -> tuple[Inputs, int]:
        if not self.frames_apart:
            return super().joined(seen, num_frames, question)
        frames = [*seen, *[seen[-1]] * (num_frames - len(seen))]
        ids = self._ids(question, num_frames)
        visual = torch.cat([frame.visual for frame in frames])
        places = (ids[0] == self._visual_id).nonzero()[:, 0].tolist()
        settled = [*places, ids.shape[1]][sum(len(frame.visual) for frame in seen)]
        return Inputs(ids, torch.cat([frame.pixel_values for frame in frames], dim=-4), visual), settled

    def encode_frames(self, pixel_values: Tensor) -> Tensor:
        """Visual tokens [m, hidden] of [1, n, 3, S, S] (form "video") or [n, 3, S, S] (form "images")."""
        pixel_values = pixel_values.to(self.device, self.dtype)
        if self.form == "video":
            out = self.module.model.get_video_features(pixel_values, return_dict=True)
        else:
            out = self.module.model.get_image_features(pixel_values, return_dict=True)
        return out.pooler_output.flatten(0, 1)

    @property
    def _visual_id(self) -> int:
        config = self.module.config
        return config.video_token_index if self.form == "video" else config.image_token_index

    def _ids(self, question: str, num_frames: int) -> Tensor:
        config = self.module.config
        if self.form == "video":
            token, per_token = VIDEO_TOKEN, num_frames * tokens_per_picture(config, with_cls=True)
        else:
            with_cls = config.vision_feature_select_strategy == "full"
            token, per_token = IMAGE_TOKEN, tokens_per_picture(config, with_cls)
        return tokenize_video_llava(
            self.tokenizer, self._prompt(question, num_frames), token, self._visual_id, per_token
        )

    def _prompt(self, question: str, num_frames: int) -> str:
        return video_llava_prompt(question, None if self.form == "video" else num_frames, self.prompt)


def tokens_per_picture(config: Any, with_cls: bool) -> int:
    """Visual tokens of one frame: one a block where the config has `patch_blocks`, else one a patch and the CLS."""
    grid = config.vision_config.image_size // config.vision_config.patch_size
    if blocks := getattr(config, "patch_blocks", None):
        return blocks[0] * blocks[1]
    return grid**2 + with_cls


class BlockProjector(nn.Module):
    """Puts the patches of a block and the picture's CLS side by side and projects them: nothing is averaged away.

    forward: tower features [n, 1 + grid * grid, d] -> [n, rows * columns, hidden].
    """

    def __init__(self, config: VideoLlavaConfig) -> None:
        super().__init__()
        vision, hidden = config.vision_config, config.text_config.hidden_size
        self.grid = vision.image_size // vision.patch_size
        told, strategy = config.patch_blocks, config.vision_feature_select_strategy
        divisors = [count for count in range(1, self.grid + 1) if self.grid % count == 0]
        if not (isinstance(told, list | tuple) and len(told) == 2 and all(count in divisors for count in told)):
            raise ValueError(f"config.json: patch_blocks: expected two of {divisors}, found {told!r}")
        if strategy != "full":  # a block has the picture's CLS beside it
            raise ValueError(f"config.json: vision_feature_select_strategy: expected 'full', found {strategy!r}")
        self.blocks: tuple[int, int] = (told[0], told[1])
        width = vision.hidden_size * (1 + self.grid**2 // (self.blocks[0] * self.blocks[1]))
        self.norm = nn.LayerNorm(width)
        self.linear_1, self.act, self.linear_2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden)

    def forward(self, features: Tensor) -> Tensor:
        rows, columns = self.blocks
        patches = features[:, 1:].unflatten(1, (rows, self.grid // rows, columns, self.grid // columns))
        patches = patches.transpose(2, 3).flatten(3, 5).flatten(1, 2)  # [n, block, patch * d]
        whole = features[:, :1].expand(-1, rows * columns, -1)
        return self.linear_2(self.act(self.linear_1(self.norm(torch.cat([whole, patches], dim=-1)))))


class GroupedVideoLlava(VideoLlavaForConditionalGeneration):
    """Video-LLaVA whose config has `patch_blocks`, [rows, columns]: so many visual tokens does a frame give."""

    def __init__(self, config: VideoLlavaConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector = BlockProjector(config)
