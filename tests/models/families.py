"""Tiny random checkpoints of transformers' vision-language classes, saved as published ones are: real classes, real
processors' settings, a small byte-level tokenizer with the family's own special tokens, a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN, SIDE, PATCH = 64, 56, 14  # pictures of 4 x 4 patches
EYES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
WORDS = {
    "qwen": "the car moves left and a red truck stands on the road",
    "llama": "what moves in this scene is a person near the crossing",
}
LLAVA_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% else %}<{{ c.type }}>\n{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TEMPLATE = LLAVA_TEMPLATE.replace("<{{ c.type }}>\n", "<|vision_start|><|{{ c.type }}_pad|><|vision_end|>")
INTERN_TEMPLATE = LLAVA_TEMPLATE.replace(
    "<{{ c.type }}>\n", "{% if c.type == 'image' %}<IMG_CONTEXT>{% else %}<video>{% endif %}\n"
)
SMOL_TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}:"
    "{% for c in m.content %}{% if c.type == 'text' %} {{ c.text }}{% else %}<{{ c.type }}>{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n"
    "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% else %}<start_of_image>{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def make_words(specials: tuple[str, ...], text: str, size: int = 280, **named: str) -> Any:
    """A byte-level tokenizer of `size` words and the special tokens behind them; `named` as `image_token="<image>"`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text] * 3, trainer)
    tokenizer.add_tokens([f"<unused_{i}>" for i in range(size - tokenizer.get_vocab_size())])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        extra_special_tokens=named,
    )  # fmt: skip
    wrapped.add_tokens([token for token in specials if token not in named.values()], special_tokens=True)
    return wrapped


def text_fields(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    fields = {
        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    return {**fields, **changes}


def save(folder: Path, module: Any, tokenizer: Any, template: str | None, **files: dict[str, Any]) -> Path:
    """Weights that do not repeat one token for ever, tokenizer, template and the JSON files by their stems."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and "language_model" not in name and "text_model" not in name:
                parameter.normal_(std=0.3)  # what is seen counts
        words = module.get_input_embeddings()
        words.weight.normal_(std=1.0 / float(getattr(words, "embed_scale", 1)))
        for name, parameter in module.get_decoder().layers.named_parameters():
            if "proj" in name:
                parameter.normal_(std=0.2)
        module.get_output_embeddings().weight.normal_(std=0.3)
        specials = [token for token in tokenizer.get_vocab() if token[0] == "<"]
        module.get_output_embeddings().weight[tokenizer.convert_tokens_to_ids(specials)] = 0  # none is the likeliest
    module.generation_config.eos_token_id = 2
    module.save_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    for stem, fields in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(fields))
    return folder


SQUARE = {"height": SIDE, "width": SIDE}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "image_size": SIDE,
    "patch_size": PATCH,
    "vision_use_head": False,
    **EYES,
}


def llava_onevision(folder: Path) -> Path:
    words = make_words(("<|im_start|>", "<|im_end|>"), WORDS["qwen"], image_token="<image>", video_token="<video>")
    ids = {name: words.convert_tokens_to_ids(f"<{name}>") for name in ("image", "video")}
    grid = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_fields(words)},
        vision_config=SIGLIP, image_token_id=ids["image"], video_token_id=ids["video"], image_grid_pinpoints=grid,
        tie_word_embeddings=False,
    )  # fmt: skip
    processor = {
        "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 16, "vision_feature_select_strategy": "full",
    }  # fmt: skip
    images = {"image_processor_type": "LlavaOnevisionImageProcessor", "size": SQUARE, "image_grid_pinpoints": grid}
    videos = {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": SQUARE, **CLIP}
    return save(
        folder, transformers.LlavaOnevisionForConditionalGeneration(config), words, LLAVA_TEMPLATE,
        processor_config=processor, preprocessor_config=images, video_preprocessor_config=videos,
    )  # fmt: skip


def internvl(folder: Path) -> Path:
    words = make_words(
        ("<|im_start|>", "<|im_end|>"), WORDS["qwen"],
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **text_fields(words)},
        vision_config={"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH], **EYES},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"), downsample_ratio=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    images = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": SQUARE,
        "crop_to_patches": False,
        "max_patches": 2,
    }
    return save(
        folder, transformers.InternVLForConditionalGeneration(config), words, INTERN_TEMPLATE,
        processor_config={"processor_class": "InternVLProcessor", "image_seq_length": 4}, preprocessor_config=images,
        video_preprocessor_config={"video_processor_type": "InternVLVideoProcessor", "size": SQUARE, **CLIP},
    )  # fmt: skip


def smolvlm(folder: Path, name: str = "SmolVLM") -> Path:
    words = make_words(
        ("<|im_start|>", *(f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5))), WORDS["llama"],
        fake_image_token="<fake_token_around_image>", image_token="<image>", global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )  # fmt: skip
    words.add_tokens(["<video>"], special_tokens=True)
    config = getattr(transformers, f"{name}Config")(
        text_config={"model_type": "llama", **text_fields(words)},
        vision_config={"image_size": SIDE, "patch_size": PATCH, **EYES},
        image_token_id=words.convert_tokens_to_ids("<image>"), scale_factor=2, tie_word_embeddings=False,
    )  # fmt: skip
    images = {
        "image_processor_type": f"{name}ImageProcessor", "size": {"longest_edge": 2 * SIDE},
        "max_image_size": {"longest_edge": SIDE}, "do_image_splitting": True,
    }  # fmt: skip
    videos = {
        "video_processor_type": "SmolVLMVideoProcessor", "size": {"longest_edge": 2 * SIDE},
        "max_image_size": {"longest_edge": SIDE}, "num_frames": 64, "fps": 1, "resample": 1, **HALF,
    }  # fmt: skip
    files = {"video_preprocessor_config": videos} if name == "SmolVLM" else {}
    return save(
        folder, getattr(transformers, f"{name}ForConditionalGeneration")(config), words, SMOL_TEMPLATE,
        processor_config={"processor_class": f"{name}Processor", "image_seq_len": 4}, preprocessor_config=images,
        **files,
    )  # fmt: skip


def idefics3(folder: Path) -> Path:
    return smolvlm(folder, "Idefics3")


def qwen(folder: Path, number: str) -> Path:
    words = make_words(
        ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
        WORDS["qwen"], 290,
    )  # fmt: skip
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    ids |= {f"vision_{name}_token_id": words.convert_tokens_to_ids(f"<|vision_{name}|>") for name in ("start", "end")}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = text_fields(words, rope_parameters=rope)
    tower: dict[str, Any] = {"num_heads": 2, "out_hidden_size": HIDDEN}
    tower |= {"hidden_size": 32, "intermediate_size": 48, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if number == "2_5":
        tower |= {"depth": 1, "patch_size": 14, "window_size": 28, "fullatt_block_indexes": [0], "tokens_per_second": 2}
    else:
        text |= {"head_dim": 16}
        tower |= {"depth": 3, "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    name = f"Qwen{number}{'_' if '_' in number else ''}VL"
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config=tower, tie_word_embeddings=False, **ids
    )
    side = tower["patch_size"]
    size = {"shortest_edge": 16 * side * side, "longest_edge": 32 * side * side}
    shared = {"patch_size": side, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    shared |= HALF if number == "3" else CLIP
    videos = {"video_processor_type": f"Qwen{number[0]}VLVideoProcessor", **shared}
    if number == "3":
        videos |= {"size": {key: 8 * value for key, value in size.items()}}
    return save(
        folder, getattr(transformers, f"{name}ForConditionalGeneration")(config), words, QWEN_TEMPLATE,
        processor_config={"processor_class": f"{name}Processor"},
        preprocessor_config={"image_processor_type": "Qwen2VLImageProcessor", **shared},
        video_preprocessor_config=videos,
    )  # fmt: skip


def qwen2_5_vl(folder: Path) -> Path:
    return qwen(folder, "2_5")


def qwen3_vl(folder: Path) -> Path:
    return qwen(folder, "3")


def gemma3(folder: Path) -> Path:
    words = make_words(
        ("<start_of_turn>", "<end_of_turn>"), WORDS["llama"],
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    text = text_fields(words, head_dim=16, sliding_window=8, query_pre_attn_scalar=16)
    text |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=SIGLIP, mm_tokens_per_image=4, tie_word_embeddings=False,
        image_token_id=words.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_id=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_id=words.convert_tokens_to_ids("<end_of_image>"),
    )  # fmt: skip
    return save(
        folder, transformers.Gemma3ForConditionalGeneration(config), words, GEMMA_TEMPLATE,
        processor_config={"processor_class": "Gemma3Processor", "image_seq_length": 4},
        preprocessor_config={"image_processor_type": "Gemma3ImageProcessor", "size": SQUARE},
    )  # fmt: skip


def llava_next_video(folder: Path) -> Path:
    words = make_words((), WORDS["llama"], image_token="<image>", video_token="<video>")
    ids = {name: words.convert_tokens_to_ids(f"<{name}>") for name in ("image", "video")}
    grid = [[SIDE, SIDE], [SIDE, 2 * SIDE]]
    config = transformers.LlavaNextVideoConfig(
        text_config={"model_type": "llama", **text_fields(words)},
        vision_config={
            "model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH, "projection_dim": 16, **EYES
        },
        image_token_id=ids["image"], video_token_id=ids["video"], image_grid_pinpoints=grid, tie_word_embeddings=False,
    )  # fmt: skip
    processor = {
        "processor_class": "LlavaNextVideoProcessor", "patch_size": PATCH, "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }  # fmt: skip
    crop = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
    return save(
        folder, transformers.LlavaNextVideoForConditionalGeneration(config), words, LLAVA_TEMPLATE,
        processor_config=processor,
        preprocessor_config={"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": grid, **crop},
        video_preprocessor_config={"video_processor_type": "LlavaNextVideoVideoProcessor", **crop, **CLIP},
    )  # fmt: skip


FAMILIES = {
    function.__name__: function
    for function in (
        llava_onevision, internvl, smolvlm, idefics3, qwen2_5_vl, qwen3_vl, gemma3, llava_next_video
    )
}  # fmt: skip


def frames_of_noise() -> np.ndarray:
    """uint8 [6, 80, 96, 3]: blocks of colour with a slope, so that how they are resized shows."""
    blocks = np.random.default_rng(5).integers(0, 256, (6, 5, 6, 3)).repeat(16, 1).repeat(16, 2)
    return ((blocks + np.arange(96)[:, None]) % 256).astype(np.uint8)


def scene_of_noise() -> Any:
    """Two event images, and six frames of a clip of one second."""
    frames = frames_of_noise()
    return SimpleNamespace(
        event_images=list(255 - frames[:2]), frames=frames,
        metadata={"clip": (20, 20.0), "load_seconds": 0.0}, frame_indices=(0, 3, 7, 11, 15, 19),
    )  # fmt: skip
