"""Small checkpoints of both classes with random weights, saved as published ones are, and a scene of noise."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from egptlib.models import EventGPT, EventGPTConfig, Pair, load_pair

VOCAB = 300
TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14, "projection_dim": 16,
}  # fmt: skip
LANGUAGE = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def event_config(**changes: Any) -> EventGPTConfig:
    fields = {"vocab_size": VOCAB, "num_hidden_layers": 2, "vision_config": dict(TOWER), **LANGUAGE}
    return EventGPTConfig(**{**fields, "mm_use_im_patch_token": False, **changes})


def video_config(**changes: Any) -> VideoLlavaConfig:
    text = LlamaConfig(vocab_size=VOCAB + 3, num_hidden_layers=3, **LANGUAGE)
    vision = {"model_type": "clip_vision_model", **TOWER}
    ids = {"image_token_index": VOCAB, "video_token_index": VOCAB + 1}
    return VideoLlavaConfig(**{"text_config": text, "vision_config": vision, **ids, **changes})


def make_tokenizer(specials: tuple[str, ...] = (), text: str = "what moves a red car goes left") -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    named = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=named, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text] * 3, trainer)
    tokenizer.add_tokens([f"<unused_{i}>" for i in range(VOCAB - tokenizer.get_vocab_size())])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    if specials:
        wrapped.add_special_tokens({"additional_special_tokens": list(specials)})
    return wrapped


def loud(module: Any) -> Any:
    """Larger random weights: as transformers draws them, a random model repeats one token for ever."""
    with torch.no_grad():
        module.get_input_embeddings().weight.normal_(std=1.0)
        language_model = getattr(module.model, "language_model", module.model)
        for name, parameter in language_model.layers.named_parameters():
            if "proj" in name:
                parameter.normal_(std=0.2)
        module.lm_head.weight[:3] = 0  # no special token is the likeliest
    return module.eval()


@pytest.fixture(scope="session")
def event_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eventgpt")
    torch.manual_seed(0)
    loud(EventGPT(event_config())).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def video_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video_llava")
    torch.manual_seed(1)
    loud(VideoLlavaForConditionalGeneration(video_config())).save_pretrained(folder)
    make_tokenizer(("<image>", "<video>", "<pad>")).save_pretrained(folder)
    squash = {"size": {"height": 28, "width": 28}, "do_center_crop": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(squash))
    return folder


@pytest.fixture(scope="session")
def pair(event_checkpoint: Path, video_checkpoint: Path) -> Pair:
    return load_pair("mini", drafter=event_checkpoint, target=video_checkpoint)


@pytest.fixture(scope="session")
def scene() -> Any:
    random = np.random.default_rng(5)
    return SimpleNamespace(
        event_images=[random.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(5)],
        frames=random.integers(0, 256, (8, 40, 50, 3), dtype=np.uint8),
        metadata={"load_seconds": 0.25},
    )
