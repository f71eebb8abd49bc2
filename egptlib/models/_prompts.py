"""What each model is asked, word for word, and how it becomes ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from egptlib.models._eventgpt import EVENT_PLACEHOLDER, EventGPTConfig

EVENT_TOKEN, EVENT_START, EVENT_END, EVENT_PATCH = "<event>", "<ev_start>", "<ev_end>", "<ev_patch>"
IMAGE_TOKEN, VIDEO_TOKEN = "<image>", "<video>"
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)


def eventgpt_prompt(question: str) -> str:
    """EventGPT's conversation template `eventgpt_v1` with one question."""
    return f"{SYSTEM} USER: {EVENT_START}{EVENT_TOKEN}{EVENT_END}\n{question} ASSISTANT:"


def video_prompt(question: str) -> str:
    """Video-LLaVA's prompt for one clip (`pixel_values_videos`)."""
    return f"USER: {VIDEO_TOKEN}\n{question} ASSISTANT:"


def images_prompt(question: str, num_images: int = 8) -> str:
    """Video-LLaVA's prompt for the frames as single images (`pixel_values_images`), as the earlier work wrote it."""
    return "USER: " + f"{IMAGE_TOKEN}\n" * num_images + f"{question}\nASSISTANT:"


def add_event_tokens(tokenizer: Any, config: EventGPTConfig) -> None:
    """Add the special tokens that the checkpoint's config asks for, as the published code does.

    Raises:
        ValueError: a token that prompts contain has no row in the model's embeddings.
    """
    if config.mm_use_im_patch_token:
        tokenizer.add_tokens([EVENT_PATCH], special_tokens=True)
    if config.mm_use_im_start_end:
        tokenizer.add_tokens([EVENT_START, EVENT_END], special_tokens=True)
        last = max(tokenizer.convert_tokens_to_ids([EVENT_START, EVENT_END]))
        if last >= config.vocab_size:
            raise ValueError(
                f"config.json: vocab_size: expected more than {last} (mm_use_im_start_end adds {EVENT_START} "
                f"and {EVENT_END} to the tokenizer), found {config.vocab_size}"
            )


def tokenize_eventgpt(tokenizer: Any, prompt: str) -> Tensor:
    """Tokenize the two pieces around `<event>`, with the placeholder id between them.

    The pieces are tokenized one by one, so with a SentencePiece vocabulary the second starts with its own word mark;
    its BOS is dropped: one BOS, at the very start.

    Returns:
        int64 [1, t].
    """
    pieces = prompt.split(EVENT_TOKEN)
    if len(pieces) != 2:
        raise ValueError(f"prompt: expected one {EVENT_TOKEN}, found {len(pieces) - 1}")
    before, after = (tokenizer(piece).input_ids for piece in pieces)
    if after and after[0] == tokenizer.bos_token_id:
        after = after[1:]
    return torch.tensor([[*before, EVENT_PLACEHOLDER, *after]])


def tokenize_video_llava(tokenizer: Any, prompt: str, visual_token: str, visual_id: int, num_tokens: int) -> Tensor:
    """Tokenize a prompt and repeat each visual token `num_tokens` times, one id per visual embedding.

    Returns:
        int64 [1, t].
    """
    ids = tokenizer(prompt).input_ids
    if ids.count(visual_id) != prompt.count(visual_token):
        found = tokenizer.convert_tokens_to_ids(visual_token)
        raise ValueError(f"tokenizer: {visual_token}: expected the config's id {visual_id}, found {found}")
    expanded = [copy for i in ids for copy in ([i] * num_tokens if i == visual_id else [i])]
    return torch.tensor([expanded])
