"""What each model is asked, word for word, and how it becomes ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from egptlib.models._eventgpt import EVENT_PLACEHOLDER, EventGPTConfig

EVENT_TOKEN, EVENT_START, EVENT_END, EVENT_PATCH = "<event>", "<ev_start>", "<ev_end>", "<ev_patch>"
IMAGE_TOKEN, VIDEO_TOKEN = "<image>", "<video>"
VIDEO_PROMPT, IMAGES_PROMPT = "USER: {frames}\n{question} ASSISTANT:", "USER: {frames}\n{question}\nASSISTANT:"
EVENTS_PROMPT = VIDEO_PROMPT  # as published, for images as for clips
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)


def eventgpt_prompt(question: str) -> str:
    """EventGPT's conversation template `eventgpt_v1` with one question."""
    return f"{SYSTEM} USER: {EVENT_START}{EVENT_TOKEN}{EVENT_END}\n{question} ASSISTANT:"


def video_llava_prompt(question: str, num_images: int | None = None, template: str | None = None) -> str:
    """Video-LLaVA's prompt.

    The earlier work ended it with " ASSISTANT:" where it extracted states and with "\\nASSISTANT:" where it timed runs;
    its authors used eight `<image>` tokens. So the defaults differ with the form, and a pair may name its own. Behind
    `<video>` the recorded runs' text began with 13, the new line, without a word mark of its own (`legacy: false`).

    Args:
        num_images: frames as single images (`pixel_values_images`); None: one clip (`pixel_values_videos`).
        template: with `{frames}` and `{question}` in it; None: `VIDEO_PROMPT` or `IMAGES_PROMPT`.

    Raises:
        ValueError: a template without one of the two.
    """
    frames = VIDEO_TOKEN if num_images is None else "\n".join([IMAGE_TOKEN] * num_images)
    template = template or (VIDEO_PROMPT if num_images is None else IMAGES_PROMPT)
    if template.count("{frames}") != 1 or "{question}" not in template:
        raise ValueError(f"prompt: expected {{frames}} once and {{question}} in it, found {template!r}")
    return frames.join(part.replace("{question}", question) for part in template.split("{frames}"))


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
