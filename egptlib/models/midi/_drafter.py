"""The midi drafter: the EventGPT class, two layers wide, that reads SmolLM2's words and learns the target's answers.

Its words are SmolLM2's embeddings as they are, its eyes the mini drafter's event tower; both are put in where the pair
is put together, and not shipped. Its head drafts the frequent tokens alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from egptlib._whole import check_fields
from egptlib.models._batch import BatchReader
from egptlib.models._checkpoint import read_config
from egptlib.models._eventgpt import EVENT_PLACEHOLDER, EventGPT, EventGPTConfig
from egptlib.models._pair_file import MINI_FOLDER
from egptlib.models._prompts import eventgpt_prompt, tokenize_eventgpt
from egptlib.models._trimmed import TrimmedHead, trimmed_tokens
from egptlib.models._video_llava import VideoModel
from egptlib.models.mini._card import MAX_NEW_TOKENS
from egptlib.models.mini._data import MiniData, QuestionsAnswers
from egptlib.models.mini._language import LanguageSettings, train_language
from egptlib.models.mini._sizes import TOWER
from egptlib.models.mini._towers import event_tokens, see_all
from egptlib.models.mini._training import WHITE, prompts_of, save_model

DRAFTER = "drafter.safetensors"
SCENES_AT_ONCE = 12
BORROWED = ("visual_tower.", "model.embed_tokens.")  # from the mini drafter, and from the language model


@dataclass(frozen=True)
class DrafterSettings:
    """Everything that decides which drafter comes out, beside the target that it learns from."""

    seed: int = 4  # of the weights that training starts from
    sequences: int = 540  # of the training split; what the target answers about their windows is learned
    layers: int = 2
    inner: int = 768  # width inside a layer's feed-forward part
    drafted: int = 1_024  # tokens that its head writes
    language: LanguageSettings = field(default_factory=lambda: LanguageSettings(epochs=6, batch_size=8))

    def __post_init__(self) -> None:
        check_fields(self, "training setting", seed=None, sequences=1, layers=1, inner=1, drafted=1)


def drafter_config(base: Path, settings: DrafterSettings) -> EventGPTConfig:
    """EventGPT over the language model's words, as wide as it and with its attention's shape."""
    kept = (
        "vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "rope_parameters", "rms_norm_eps",
        "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    text = read_config(base)
    return EventGPTConfig(
        **{name: text[name] for name in kept},
        num_hidden_layers=settings.layers,
        intermediate_size=settings.inner,
        draft_vocab_size=settings.drafted,
        vision_config=dict(TOWER),
        mm_visual_tower=None,
        mm_use_im_start_end=False,
        mm_use_im_patch_token=False,
        max_position_embeddings=1024,
        max_prompt_length=1024,
        tie_word_embeddings=False,
    )


def build_drafter(base: Path, tokens: Tensor, settings: DrafterSettings) -> EventGPT:
    """The drafter as training finds it, in float32: words, eyes, and the attention of the language model's first layers
    as they are, the rest new.

    Args:
        base: the language model's folder.
        tokens: int64 [drafted], ascending: what its head drafts.
    """
    torch.manual_seed(settings.seed)
    drafter = EventGPT(drafter_config(base, settings)).float()
    weights = {name: value.float() for name, value in load_file(base / "model.safetensors").items()}
    borrow(drafter, weights["model.embed_tokens.weight"])
    own = drafter.state_dict()
    kept = ("self_attn.", "input_layernorm.", "model.norm.")
    drafter.load_state_dict({n: w for n, w in weights.items() if n in own and any(k in n for k in kept)}, strict=False)
    head: Any = drafter.lm_head
    assert isinstance(head, TrimmedHead)
    head.d2t.copy_(tokens - torch.arange(len(tokens)))
    with torch.no_grad():
        head.weight.copy_(weights["model.embed_tokens.weight"][tokens])  # the language model reads by its words too
    return drafter


def borrow(drafter: EventGPT, words: Tensor) -> None:
    """Put in what is not trained: the words' embeddings, and the mini drafter's event tower."""
    drafter.model.embed_tokens.load_state_dict({"weight": words})
    drafter.visual_tower.load_state_dict(EventGPT.from_pretrained(MINI_FOLDER / "drafter").visual_tower.state_dict())


@torch.no_grad()
def target_answers(target: VideoModel, frames: Tensor, questions: list[str]) -> QuestionsAnswers:
    """What the target answers, greedily, to the same questions about each scene, with these questions.

    Args:
        frames: uint8 [scene, 8, S, S, 3].
    """
    told: QuestionsAnswers = []
    for some in frames.split(SCENES_AT_ONCE):
        scenes = []
        for pictures in some.numpy():
            first = target.encode(SimpleNamespace(frames=pictures), questions[0])
            scenes.append([target.see(first)])  # now with its visual tokens, which the others take
            scenes[-1] += [target.see(target.encode(None, question, like=first)) for question in questions[1:]]
        reader = BatchReader(target)
        said = [target.decode_text(read.token_ids) for read in reader.answer(reader.prompts(scenes), MAX_NEW_TOKENS)]
        told += [list(zip(questions, said[i : i + len(questions)])) for i in range(0, len(said), len(questions))]
    return told


def train_drafter(
    base: Path, data: MiniData, answers: QuestionsAnswers, settings: DrafterSettings, checkpoint: Path
) -> tuple[EventGPT, list[dict[str, float]]]:
    """Train all that is not borrowed to say what the target says, from the events.

    Args:
        base: the language model's folder.
        data: scenes of the training split.
        answers: to all questions about them.
        checkpoint: see `train_language`.

    Returns:
        The drafter, and a row per epoch.
    """
    words = AutoTokenizer.from_pretrained(base, local_files_only=True)

    def encode(question: str) -> list[int]:
        return tokenize_eventgpt(words, eventgpt_prompt(question))[0].tolist()

    prompts = prompts_of(answers, encode, words, EVENT_PLACEHOLDER)
    count = Counter(token for scene in prompts.branches for _, answer in scene for token in answer)
    drafter = build_drafter(base, trimmed_tokens([t for t, _ in count.most_common()], settings.drafted), settings)
    history = train_language(
        drafter,
        drafter.model,
        lambda features: event_tokens(drafter.feature_adaptor(drafter.visual_projector(features))),
        see_all(drafter.visual_tower, data.events),
        see_all(drafter.visual_tower, torch.full_like(data.events[:1], WHITE))[0],
        prompts,
        settings.language,
        "midi drafter",
        trains=lambda label: not label.startswith(BORROWED),
        checkpoint=checkpoint,
    )
    return drafter, history


def save_drafter(drafter: EventGPT, settings: DrafterSettings, folder: Path) -> None:
    """Write what was trained in bfloat16, and of what size it is."""
    own = {name: value for name, value in drafter.state_dict().items() if not name.startswith(BORROWED)}
    weights = {name: value.bfloat16() if value.is_floating_point() else value for name, value in own.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / DRAFTER, metadata={"layers": str(settings.layers), "inner": str(settings.inner)})


def write_drafter(base: Path, trained: Path, out: Path) -> None:
    """Write the whole drafter as a checkpoint in bfloat16, with what is borrowed.

    Args:
        base: the language model's folder.
        trained: what `save_drafter` has written.
        out: folder to write.
    """
    own = load_file(trained / DRAFTER)
    with safe_open(trained / DRAFTER, framework="pt") as stored:
        told = stored.metadata()
    settings = DrafterSettings(layers=int(told["layers"]), inner=int(told["inner"]), drafted=len(own["lm_head.weight"]))
    drafter = EventGPT(drafter_config(base, settings))
    drafter.load_state_dict(own, strict=False)
    borrow(drafter, load_file(base / "model.safetensors")["model.embed_tokens.weight"])
    save_model(drafter, AutoTokenizer.from_pretrained(base, local_files_only=True), out)
