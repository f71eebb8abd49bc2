"""How the midi pair is made: the language model fetched, a projector and LoRA trained, whole checkpoints put together.

The target's language model and video tower stay as they are. It is taught twice: what is to be said of windows, and,
since that alone costs it its language, what it says now beside what the language model says of other things. The
tower's features are made once; training is resumed from its checkpoints, with the same outcome.
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
from tqdm import tqdm

from egptlib._paths import atomic_write, data_root, read_json, write_json
from egptlib._whole import check_fields
from egptlib.models._pair_file import MIDI_FOLDER, made_pair, pair_settings
from egptlib.models._prompts import VIDEO_TOKEN, tokenize_video_llava, video_llava_prompt
from egptlib.models._video_llava import VideoModel
from egptlib.models.midi._base import make_base
from egptlib.models.midi._card import measure_language, write_midi_card
from egptlib.models.midi._drafter import (
    DRAFTER,
    DrafterSettings,
    save_drafter,
    target_answers,
    train_drafter,
    write_drafter,
)
from egptlib.models.midi._reminder import QUESTIONS, own_answers, text_loss
from egptlib.models.midi._target import (
    PROJECTOR,
    add_lora,
    build_target,
    save_trained,
    target_tokenizer,
    visual_tokens,
    write_target,
)
from egptlib.models.mini._card import measure_slots
from egptlib.models.mini._data import MiniData, QuestionsAnswers, load_mini_data, open_mini_scenes
from egptlib.models.mini._language import LanguageSettings, train_language
from egptlib.models.mini._towers import see_all
from egptlib.models.mini._training import BLACK, prompts_of
from egptlib.models.mini._windows import load_windows
from egptlib.scenes.streets import reword

_ANSWERED_IN_A_FILE = 96  # scenes
SEEING = "midi_seeing"  # the target that has learned to see, before it is reminded of its language


@dataclass(frozen=True)
class MidiSettings:
    """Everything that decides which weights come out."""

    seed: int = 3  # of the projector and LoRA that training starts from
    windows: int = 2_000  # each of a street of its own
    rank: int = 16
    target: LanguageSettings = field(
        default_factory=lambda: LanguageSettings(epochs=2, batch_size=4, questions=5, learning_rate=1e-3)
    )
    sequences: int = 190  # of the training split, whose windows it is reminded with
    answered: int = 552  # of these windows: it is taught what it has answered
    reminder: LanguageSettings = field(
        default_factory=lambda: LanguageSettings(epochs=1, batch_size=4, questions=3, learning_rate=5e-4)
    )

    def __post_init__(self) -> None:
        check_fields(self, "training setting", seed=None, windows=1, rank=1, sequences=1, answered=1)


def train_midi(
    out: str | Path = MIDI_FOLDER, work: str | Path | None = None, settings: MidiSettings | None = None
) -> list[dict[str, float]]:
    """Train the midi target's projector and LoRA on windows of `streets`, its answers in several wordings; then, so
    that it keeps its language, on its own answers and those of the language model to other questions.

    Args:
        out: gets `target/` with what was trained.
        work: drawn windows, features and the checkpoints that a stopped run goes on from, and `midi_seeing/`, the
            target before it was reminded; None takes `midi_training/` under `data_root()`.
        settings: None takes those of the shipped weights.

    Returns:
        One row per epoch of both: loss per answer token about scenes in nats.

    Raises:
        ValueError: the language model is not there.
    """
    settings, out, base = settings or MidiSettings(), Path(out), _base()
    work = data_root() / "midi_training" if work is None else Path(work)
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

    def teach(
        scenes: Tensor, said: QuestionsAnswers, how: LanguageSettings, name: str, **more: Any
    ) -> list[dict[str, float]]:
        return train_language(
            target,
            target.model.language_model,
            lambda seen: visual_tokens(target, seen),
            scenes,
            features[-1],
            prompts_of(said, encode, tokenizer, target.config.video_token_index),
            how,
            name,
            trains=lambda label: "lora_" in label or "multi_modal_projector" in label,
            checkpoint=work / f"{name.replace(' ', '_')}_{key}.pt",
            **more,
        )

    history = teach(features[:-1], in_other_words(windows.questions_answers), settings.target, "midi target")
    save_trained(target, lora, work / SEEING)
    data = load_mini_data("train", settings.sequences, work)
    said = _answers(base, work / SEEING, work, data, settings.answered)
    beside = text_loss(target, target.model.language_model, own_answers(base), settings.seed)
    seen = see_all(target.model.video_tower, data.frames[: len(said)])
    history += teach(seen, said, settings.reminder, "midi reminder", beside=beside)
    shutil.rmtree(out / "target", ignore_errors=True)
    save_trained(target, lora, out / "target")
    return history


def distil_midi(
    out: str | Path = MIDI_FOLDER, work: str | Path | None = None, settings: DrafterSettings | None = None
) -> list[dict[str, float]]:
    """Train the midi drafter to say what the midi target says of windows of `streets`, from their events.

    Args:
        out: holds `target/`, as `train_midi` wrote it; gets `drafter/`.
        work: gets the target's answers and the checkpoint, from which a stopped run goes on.
        settings: None takes those of the shipped weights.

    Returns:
        One row per epoch: loss per answer token in nats.

    Raises:
        ValueError: the language model, or `target/`, is not there.
    """
    settings, out, base = settings or DrafterSettings(), Path(out), _base()
    work = data_root() / "midi_training" if work is None else Path(work)
    torch.set_num_threads(2)
    data = load_mini_data("train", settings.sequences, work)
    said = _answers(base, out / "target", work, data, len(data))
    key = hashlib.sha256(json.dumps([asdict(settings), said]).encode()).hexdigest()[:16]
    drafter, history = train_drafter(base, data, said, settings, work / f"midi_drafter_{key}.pt")
    save_drafter(drafter, settings, out / "drafter")
    return history


def tell_midi(
    histories: tuple[list[dict[str, float]], list[dict[str, float]]],
    out: str | Path = MIDI_FOLDER,
    work: str | Path | None = None,
    test_sequences: int = 40,
) -> dict[str, Any]:
    """Measure the midi pair that was trained, and write its card.

    Args:
        histories: of `train_midi` and `distil_midi`, with the settings of the shipped weights.
        out: holds what was trained; gets `card.json` and `README.md`.
        work: the pair put together; as for `train_midi`.
        test_sequences: of the test split that it is measured on.

    Returns:
        The card.
    """
    out, base = Path(out), _base()
    work = data_root() / "midi_training" if work is None else Path(work)
    write_target(base, out / "target", work / "midi_target")
    write_drafter(base, out / "drafter", work / "midi_drafter")
    pair = pair_settings("midi", drafter=work / "midi_drafter", target=work / "midi_target", dtype="float32")
    train = load_mini_data("train", DrafterSettings().sequences, work)
    scenes = open_mini_scenes("test", test_sequences)
    card = {
        "target": asdict(MidiSettings()),
        "drafter": asdict(DrafterSettings()),
        "target_history": histories[0],
        "drafter_history": histories[1],
        "drafter_parameters": sum(value.numel() for value in load_file(out / "drafter" / DRAFTER).values()),
        "train_scenes": len(train),
        "test_scenes": len(scenes),
        "reminded": len(QUESTIONS),
        "torch": torch.__version__,
        "language": measure_language(base, work / "midi_target"),
        "slots": measure_slots(pair, scenes, train.labels),
    }
    write_midi_card(card, out)
    return card


def _answers(base: Path, trained: Path, work: Path, data: MiniData, count: int) -> QuestionsAnswers:
    """What a trained target answers about the first windows; some a file, so that a stopped run goes on.

    It computes in bfloat16: that takes half the time and says nearly the same.
    """
    if not (trained / PROJECTOR).is_file():
        raise ValueError(f"{trained}: no target here; expected what `train_midi` writes")
    weights = hashlib.sha256()
    for file in sorted(trained.glob("*.safetensors")):
        weights.update(file.read_bytes())
    questions = [question for question, _ in data.questions_answers[0]]  # every scene is asked the same
    target, told = None, []
    for frames in tqdm(
        data.frames[:count].split(_ANSWERED_IN_A_FILE), "answers of the midi target", unit="part", disable=None
    ):
        made = weights.copy()
        made.update(json.dumps(questions).encode() + frames.numpy().tobytes())
        kept = work / f"midi_answers_{made.hexdigest()[:16]}.json"
        if not kept.exists():
            if target is None:
                write_target(base, trained, work / "midi_target")
                target = VideoModel.from_pretrained(work / "midi_target", dtype=torch.bfloat16)
            write_json(kept, {"answers": target_answers(target, frames, questions)})
        told += read_json(kept)["answers"]
    return told


def _base() -> Path:
    base = data_root() / "midi" / "base"
    if not (base / "config.json").is_file():
        raise ValueError(f"{base}: the language model is not here; fetch it with `egptlib make-pair midi`")
    return base


def make_midi(out: str | Path | None = None, trained: str | Path | None = None) -> Path:
    """Put the midi pair together: the language model, fetched where it is missing, and what was trained for it.

    Args:
        out: gets `base/`, `drafter/`, `target/` and `pair.toml`; None takes `midi/` under `data_root()`.
        trained: what `train_midi` and `distil_midi` have written; None takes what is shipped.

    Returns:
        The path of the `pair.toml`; of `base/` where nothing is shipped.

    Raises:
        ValueError: the language model's package cannot be fetched, or is not the one known; nothing in `trained`.
    """
    out, shipped = made_pair("midi").parent if out is None else Path(out), Path(trained or MIDI_FOLDER)
    parts = {"target": PROJECTOR, "drafter": DRAFTER}
    missing = [shipped / side / file for side, file in parts.items() if not (shipped / side / file).is_file()]
    if trained is not None and missing:
        raise ValueError(f"{missing[0]}: no such file; expected what `egptlib train-midi` writes")
    base = make_base(out / "base")
    if missing:
        return base
    write_target(base, shipped / "target", out / "target")
    write_drafter(base, shipped / "drafter", out / "drafter")
    path = out / "pair.toml"
    path.write_text('name = "midi"\ndrafter = "drafter"\ntarget = "target"\ndtype = "float32"\n', encoding="utf-8")
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
