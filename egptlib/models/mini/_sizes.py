"""The mini pair: the real classes at a size that trains and runs on two CPU cores."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, VideoLlavaConfig

from egptlib.models._eventgpt import EventGPTConfig

HIDDEN = 256
DRAFTER_LAYERS = 2
TARGET_LAYERS = 10
EVENT_VIEWS = 5
NUM_FRAMES = 8
VOCAB_SIZE = 768  # shared; the target adds its specials behind it, as Video-LLaVA does
TARGET_SPECIALS = ("<image>", "<video>", "<pad>")

TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 96,
    "patch_size": 16,
    "projection_dim": 128,
}
_LANGUAGE = {
    "hidden_size": HIDDEN,
    "intermediate_size": 448,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def drafter_config() -> EventGPTConfig:
    """EventGPT with a Llama of two layers."""
    return EventGPTConfig(
        vocab_size=VOCAB_SIZE,
        num_hidden_layers=DRAFTER_LAYERS,
        vision_config=dict(TOWER),
        mm_visual_tower=None,
        mm_use_im_start_end=False,
        mm_use_im_patch_token=False,
        max_prompt_length=1024,
        **_LANGUAGE,
    )


def target_config() -> VideoLlavaConfig:
    """Video-LLaVA with a Llama of ten layers; every frame gives 37 visual tokens, 8 frames 296."""
    patches = (TOWER["image_size"] // TOWER["patch_size"]) ** 2  # type: ignore[operator]
    return VideoLlavaConfig(
        vision_config=dict(TOWER),
        text_config={
            "model_type": "llama",
            "vocab_size": VOCAB_SIZE + len(TARGET_SPECIALS),
            "num_hidden_layers": TARGET_LAYERS,
            **_LANGUAGE,
        },
        image_token_index=VOCAB_SIZE + TARGET_SPECIALS.index("<image>"),
        video_token_index=VOCAB_SIZE + TARGET_SPECIALS.index("<video>"),
        vision_feature_layer=-1,
        image_seq_length=patches,
        video_seq_length=NUM_FRAMES * (patches + 1),
    )


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE that encodes any text, learned from `texts`; deterministic.

    Ids 0, 1, 2 are `<unk>`, `<s>`, `</s>`, as in Llama; a `<s>` is put before every text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fillers = VOCAB_SIZE - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<unused_{index}>" for index in range(fillers)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def wrap_tokenizer(tokenizer: Tokenizer, *, for_target: bool) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers knows it; the target's has three specials more."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    if for_target:
        wrapped.add_special_tokens({"additional_special_tokens": list(TARGET_SPECIALS)})
    return wrapped
