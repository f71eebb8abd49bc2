"""The midi target: the Video-LLaVA class with SmolLM2 as its language model and the mini pair's video tower."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaModel, VideoLlavaConfig

from egptlib.models._checkpoint import read_config
from egptlib.models._pair_file import MINI_FOLDER
from egptlib.models._prompts import IMAGE_TOKEN, VIDEO_TOKEN
from egptlib.models._video_llava import GroupedVideoLlava, load_video_llava
from egptlib.models.mini._sizes import NUM_FRAMES, TOWER
from egptlib.models.mini._training import save_model

BLOCKS = (2, 3)  # of a frame's 6 x 6 patches: six visual tokens a frame
PROJECTOR = "projector.safetensors"
LORA_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]


def target_tokenizer(base: Path) -> Any:
    """SmolLM2's tokenizer with the two placeholders behind it."""
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN, VIDEO_TOKEN]})
    return tokenizer


def build_target(base: Path, seed: int) -> GroupedVideoLlava:
    """Language model and video tower as they are, the projector as training finds it, in float32.

    Args:
        base: the language model's folder.
        seed: of the projector.
    """
    text = read_config(base)
    size, tokens = text["vocab_size"], BLOCKS[0] * BLOCKS[1]
    config = VideoLlavaConfig(
        vision_config=dict(TOWER),
        text_config=text | {"vocab_size": size + 2, "dtype": "float32"},
        image_token_index=size,
        video_token_index=size + 1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=tokens,
        video_seq_length=NUM_FRAMES * tokens,
        patch_blocks=list(BLOCKS),
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    torch.manual_seed(seed)
    target = GroupedVideoLlava(config).float()
    model = target.model
    weights = {name.removeprefix("model."): value for name, value in load_file(base / "model.safetensors").items()}
    words = weights["embed_tokens.weight"]
    weights["embed_tokens.weight"] = torch.cat([words, words.new_zeros(2, words.shape[1])])  # the placeholders
    model.language_model.load_state_dict(weights)
    seeing = load_video_llava(MINI_FOLDER / "target").model.video_tower.state_dict()
    for tower in (model.video_tower, model.image_tower):
        tower.load_state_dict(seeing)
    with torch.no_grad():  # what is seen begins at the size of words
        model.multi_modal_projector.linear_2.weight.mul_(words.float().std() / 0.1)
    target.generation_config.update(bos_token_id=text["bos_token_id"], eos_token_id=text["eos_token_id"])
    target.generation_config.pad_token_id = text["pad_token_id"]
    return target


def add_lora(language_model: LlamaModel, rank: int) -> PeftModel:
    """Put trainable LoRA beside the attention of every layer, in place."""
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_MODULES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by an old name
        return get_peft_model(language_model, lora)


def visual_tokens(target: GroupedVideoLlava, features: Tensor) -> Tensor:
    """Tower features [b, n, s, d] to visual tokens [b, n * tokens, hidden], as the target reads them."""
    projected = target.model.multi_modal_projector(features.flatten(0, 1))
    return projected.unflatten(0, features.shape[:2]).flatten(1, 2)


def save_trained(target: GroupedVideoLlava, lora: PeftModel, folder: Path) -> None:
    """Write what was trained, as bfloat16 as training leaves it: the projector, and LoRA as peft does."""
    lora.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    projector = {name: value.bfloat16() for name, value in target.model.multi_modal_projector.state_dict().items()}
    save_file(projector, folder / PROJECTOR)


def write_target(base: Path, trained: Path, out: Path) -> None:
    """Write the whole target as a checkpoint in bfloat16, LoRA merged into the language model.

    Args:
        base: the language model's folder.
        trained: what `save_trained` has written.
        out: folder to write.
    """
    target = build_target(base, seed=0)
    target.model.multi_modal_projector.load_state_dict(load_file(trained / PROJECTOR))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as in `add_lora`
        merged: Any = PeftModel.from_pretrained(target.model.language_model, trained)
    target.model.language_model = merged.merge_and_unload()
    save_model(target, target_tokenizer(base), out)
