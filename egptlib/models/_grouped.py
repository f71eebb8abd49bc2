"""Video-LLaVA with few visual tokens: the patches of a frame, in blocks, become one token each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration


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
