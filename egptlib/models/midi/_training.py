"""How the midi pair is made: the language model fetched, a projector and LoRA trained, whole checkpoints put together.

The target's language model and video tower stay as they are. The tower's features are made once; training is resumed
from its checkpoint, with the same outcome.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from egptlib._paths import atomic_write, data_root
from egptlib.models._pair_file import MINI_FOLDER
from egptlib.models._prompts import VIDEO_TOKEN, tokenize_video_llava, video_llava_prompt
from egptlib.models.midi._base import make_base
from egptlib.models.midi._target import (
    PROJECTOR,
    add_lora,
    build_target,
    save_trained,
    target_tokenizer,
    visual_tokens,
    write_target,
)
from egptlib.models.mini._data import QuestionsAnswers
from egptlib.models.mini._language import LanguageSettings, train_language
from egptlib.models.mini._towers import see_all
from egptlib.models.mini._training import BLACK, prompts_of
from egptlib.models.mini._windows import load_windows
from egptlib.scenes.streets import reword

MIDI_FOLDER = Path(__file__).parent
"""Where what was trained is shipped."""


@dataclass(frozen=True)
class MidiSettings:
    """Everything that decides which weights come out."""

    seed: int = 3  # of the projector and LoRA that training starts from
    windows: int = 2_000  # each of a street of its own
    rank: int = 16
    target: LanguageSettings = field(
        default_factory=lambda: LanguageSettings(epochs=2, batch_size=4, questions=5, learning_rate=1e-3)
    )


def train_midi(
    out: str | Path = MIDI_FOLDER, work: str | Path | None = None, settings: MidiSettings | None = None
) -> list[dict[str, float]]:
    """Train the midi target's projector and LoRA on windows of `streets`, its answers in several wordings.

    Args:
        out: gets `target/` with what was trained.
        work: drawn windows, features and the checkpoint that a stopped run goes on from; None takes `midi_training/`
            under `data_root()`.
        settings: None takes those of the shipped weights.

    Returns:
        One row per epoch: loss per answer token in nats.

    Raises:
        ValueError: the language model is not there.
    """
    settings, out = settings or MidiSettings(), Path(out)
    work = data_root() / "midi_training" if work is None else Path(work)
    base = data_root() / "midi" / "base"
    if not (base / "config.json").is_file():
        raise ValueError(f"{base}: the language model is not here; fetch it with `egptlib make-pair midi`")
    torch.set_num_threads(2)  # how sums are split over threads decides how they round
    windows = load_windows(settings.windows, work)
    target = build_target(base, settings.seed)
    lora = add_lora(target.model.language_model, settings.rank)
    decides = json.dumps([asdict(settings), windows.labels.tolist()])
    key = hashlib.sha256(decides.encode()).hexdigest()[:16]
    features = _features(target.model.video_tower, windows.frames, work / f"midi_features_{key}.safetensors")
    tokenizer = target_tokenizer(base)

    def encode(question: str) -> list[int]:
        length = target.config.video_seq_length
        prompt = video_llava_prompt(question)
        return tokenize_video_llava(tokenizer, prompt, VIDEO_TOKEN, target.config.video_token_index, length)[0].tolist()

    history = train_language(
        target,
        target.model.language_model,
        lambda features: visual_tokens(target, features),
        features[:-1],
        features[-1],
        prompts_of(in_other_words(windows.questions_answers), encode, tokenizer, target.config.video_token_index),
        settings.target,
        "midi target",
        trains=lambda label: "lora_" in label or "multi_modal_projector" in label,
        checkpoint=work / f"midi_target_{key}.pt",
    )
    trained = out / "target"
    shutil.rmtree(trained, ignore_errors=True)
    save_trained(target, lora, trained)
    return history


def make_midi(out: str | Path | None = None, trained: str | Path | None = None) -> Path:
    """Put the midi pair together: the language model, fetched where it is missing, and what was trained for it.

    Args:
        out: gets `base/`, `target/` and `pair.toml`; None takes `midi/` under `data_root()`.
        trained: what `train_midi` has written; None takes what is shipped.

    Returns:
        The path of the `pair.toml`; of `base/` where nothing is shipped.

    Raises:
        ValueError: the language model's package cannot be fetched, or is not the one known; nothing in `trained`.
    """
    out, side = data_root() / "midi" if out is None else Path(out), Path(trained or MIDI_FOLDER) / "target"
    is_trained = (side / PROJECTOR).is_file()
    if trained is not None and not is_trained:
        raise ValueError(f"{side / PROJECTOR}: no such file; expected what `egptlib train-midi` writes")
    base = make_base(out / "base")
    if not is_trained:
        return base
    write_target(base, side, out / "target")
    path = out / "pair.toml"
    drafter = json.dumps(str(MINI_FOLDER / "drafter"))  # across vocabularies, until the pair has its own
    path.write_text(f'name = "midi"\ndrafter = {drafter}\ntarget = "target"\ndtype = "float32"\n', encoding="utf-8")
    return path


def in_other_words(scenes: QuestionsAnswers) -> QuestionsAnswers:
    """Every answer in one of its wordings, decided by the scene's and the question's number."""
    return [
        [(question, reword(answer, 10 * scene + i)) for i, (question, answer) in enumerate(pairs)]
        for scene, pairs in enumerate(scenes)
    ]


def _features(tower: Any, frames: Tensor, file: Path) -> Tensor:
    """Tower features of all windows and, last, of black frames: bfloat16 [window + 1, n, s, d], kept in a file."""
    if not file.exists():
        made = see_all(tower, torch.cat([frames, torch.full_like(frames[:1], BLACK)]))
        with atomic_write(file) as partial:
            save_file({"features": made}, partial)
    return load_file(file)["features"]
