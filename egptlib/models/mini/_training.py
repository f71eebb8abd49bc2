"""`egptlib train-mini`: the mini pair from nothing: streets, tokenizer, vision towers, language models, model card.

The drafter learns from the training sequences of `streets`, the target from windows that are each of a street of its
own: video is cheap to draw, events are not, and the target has more to learn.

Every stage sets its own seeds and leaves its weights in a work folder under a name that holds a hash of its settings
and data: a stopped run goes on where it was, and a changed stage is trained again with those after it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import VideoLlavaForConditionalGeneration
from transformers.utils import logging

from egptlib._paths import atomic_write, data_root, write_json
from egptlib._whole import check_fields
from egptlib.models._eventgpt import EVENT_PLACEHOLDER, EventGPT
from egptlib.models._pair_file import MINI_FOLDER, pair_settings
from egptlib.models._prompts import (
    VIDEO_TOKEN,
    eventgpt_prompt,
    tokenize_eventgpt,
    tokenize_video_llava,
    video_llava_prompt,
)
from egptlib.models.mini._card import measure_slots, write_card
from egptlib.models.mini._data import QuestionsAnswers, load_mini_data, open_mini_scenes, preprocessor
from egptlib.models.mini._language import LanguageSettings, Prompts, split_prompts, train_language
from egptlib.models.mini._sizes import (
    drafter_config,
    target_config,
    train_tokenizer,
    wrap_tokenizer,
)
from egptlib.models.mini._towers import TowerSettings, event_tokens, frame_tokens, see_all, train_tower
from egptlib.models.mini._windows import load_event_patches, load_windows

BLACK, WHITE = 0, 255  # a blank frame, and an event image without events


@dataclass(frozen=True)
class MiniSettings:
    """Everything that decides which weights come out."""

    seed: int = 1  # of the weights that training starts from
    train_sequences: int = 540
    test_sequences: int = 100
    windows: int = 12_000  # that the target's vision tower learns from
    told_windows: int = 8_000  # of these, that its language model learns from
    event_tower: TowerSettings = field(default_factory=lambda: TowerSettings(pictures=(0, 1, 2, 3, 4), epochs=14))
    video_tower: TowerSettings = field(default_factory=lambda: TowerSettings(pictures=(0, 2, 5, 7), epochs=4))
    drafter: LanguageSettings = field(default_factory=lambda: LanguageSettings(epochs=8))
    target: LanguageSettings = field(
        default_factory=lambda: LanguageSettings(epochs=1, batch_size=8, learning_rate=8e-4)
    )

    def __post_init__(self) -> None:
        counts = ("train_sequences", "test_sequences", "windows", "told_windows")
        check_fields(self, "training setting", seed=None, **dict.fromkeys(counts, 1))


def train_mini(
    out: str | Path = MINI_FOLDER, work: str | Path | None = None, settings: MiniSettings | None = None
) -> dict[str, Any]:
    """Train the mini pair and write it with its model card.

    Args:
        out: gets `drafter/`, `target/`, `card.json` and `README.md`.
        work: intermediate stages; None takes `mini_training/` under `data_root()`.
        settings: None takes those of the shipped weights.

    Returns:
        The card: settings, histories, seconds of each stage, slot accuracies of both models, seeing and blind.
    """
    settings, out = settings or MiniSettings(), Path(out)
    work = data_root() / "mini_training" if work is None else Path(work)
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)  # how sums are split over threads decides how they round
    train = load_mini_data("train", settings.train_sequences, work)
    test = load_mini_data("test", settings.test_sequences, work)
    if shared := set(train.sequences) & set(test.sequences):
        raise ValueError(f"streets: sequences in both splits: {sorted(shared)[:3]}")
    event_patches = load_event_patches(open_mini_scenes("train", settings.train_sequences), work)
    windows = load_windows(settings.windows, work)
    stages = _Stages(work, settings.seed)
    tokenizer = train_tokenizer(_texts(train.questions_answers))

    torch.manual_seed(settings.seed)
    drafter, target = EventGPT(drafter_config()), VideoLlavaForConditionalGeneration(target_config())

    def train_video_tower() -> tuple[nn.Module, list]:
        own = settings.video_tower, (test.frames, test.labels), "video tower"
        return train_tower(windows.frames, windows.labels, windows.patches, frame_tokens, *own)

    def train_target() -> tuple[nn.Module, list]:
        told = slice(settings.told_windows)
        return _train_target(target, windows.frames[told], windows.questions_answers[told], tokenizer, settings.target)

    def train_event_tower() -> tuple[nn.Module, list]:
        own = settings.event_tower, (test.events, test.labels), "event tower"
        return train_tower(train.events, train.labels, event_patches, event_tokens, *own)

    def train_drafter() -> tuple[nn.Module, list]:
        return _train_drafter(drafter, train.events, train.questions_answers, tokenizer, settings.drafter)

    sequences = _fingerprint(train.questions_answers, train.labels)  # decides the tokenizer of both, too
    streets = _fingerprint(windows.questions_answers, windows.labels)
    seen = stages.run("video tower", settings.video_tower, target.model.video_tower, train_video_tower, streets)
    target.model.image_tower.load_state_dict(target.model.video_tower.state_dict())
    stages.run("target", settings.target, target, train_target, f"{seen} {sequences} {settings.told_windows}")
    seen = stages.run("event tower", settings.event_tower, drafter.visual_tower, train_event_tower, sequences)
    stages.run("drafter", settings.drafter, drafter, train_drafter, seen)

    save_model(drafter, wrap_tokenizer(tokenizer, for_target=False), out / "drafter")
    save_model(target, wrap_tokenizer(tokenizer, for_target=True), out / "target")
    card = {
        "settings": asdict(settings),
        "train_scenes": len(train),
        "test_scenes": len(test),
        "stages": stages.log,
        "torch": torch.__version__,
        "slots": measure_slots(
            pair_settings("mini", drafter=out / "drafter", target=out / "target"),
            open_mini_scenes("test", settings.test_sequences),
            train.labels,
        ),
    }
    write_card(card, out)
    return card


def _fingerprint(questions_answers: QuestionsAnswers, labels: Tensor) -> str:
    """Tells training data apart."""
    return hashlib.sha256(json.dumps([questions_answers, labels.tolist()]).encode()).hexdigest()[:16]


class _Stages:
    """Runs each stage once: what it trained is found again by its settings and by what it was made from."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.seed = work, seed
        self.log: dict[str, Any] = {}

    def run(
        self, name: str, settings: Any, module: nn.Module, train: Callable[[], tuple[nn.Module, list]], made_from: str
    ) -> str:
        """Load the stage's weights into `module`, or train and keep them first.

        Args:
            settings: a dataclass.
            train: returns the trained module and its history.
            made_from: tells apart the data and the stages that this one builds on.

        Returns:
            The stage's key.
        """
        decides = [self.seed, made_from, name, asdict(settings), sorted(module.state_dict())]
        key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
        file = self.work / f"{name.replace(' ', '_')}_{key}.safetensors"
        if not file.exists():
            start = perf_counter()
            trained, history = train()
            record = {"history": history, "seconds": round(perf_counter() - start)}
            with atomic_write(file) as partial:
                save_file(trained.state_dict(), partial, metadata={"record": json.dumps(record)})
        module.load_state_dict(load_file(file))
        with safe_open(file, framework="pt") as stored:
            self.log[name] = json.loads(stored.metadata()["record"])
        return key


def _train_drafter(
    model: EventGPT, events: Tensor, pairs: QuestionsAnswers, tokenizer: Tokenizer, settings: LanguageSettings
) -> tuple[nn.Module, list]:
    words = wrap_tokenizer(tokenizer, for_target=False)

    def encode(question: str) -> list[int]:
        return tokenize_eventgpt(words, eventgpt_prompt(question))[0].tolist()

    history = train_language(
        model,
        model.model,
        lambda features: event_tokens(model.feature_adaptor(model.visual_projector(features))),
        see_all(model.visual_tower, events),
        see_all(model.visual_tower, torch.full_like(events[:1], WHITE))[0],
        prompts_of(pairs, encode, words, EVENT_PLACEHOLDER),
        settings,
        "drafter",
    )
    return model, history


def _train_target(
    model: VideoLlavaForConditionalGeneration,
    frames: Tensor,
    pairs: QuestionsAnswers,
    tokenizer: Tokenizer,
    settings: LanguageSettings,
) -> tuple[nn.Module, list]:
    words = wrap_tokenizer(tokenizer, for_target=True)
    visual, length = model.config.video_token_index, model.config.video_seq_length

    def encode(question: str) -> list[int]:
        return tokenize_video_llava(words, video_llava_prompt(question), VIDEO_TOKEN, visual, length)[0].tolist()

    history = train_language(
        model,
        model.model.language_model,
        lambda features: model.model.multi_modal_projector(frame_tokens(features)),
        see_all(model.model.video_tower, frames),
        see_all(model.model.video_tower, torch.full_like(frames[:1], BLACK))[0],
        prompts_of(pairs, encode, words, visual),
        settings,
        "target",
    )
    return model, history


def _texts(scenes: QuestionsAnswers) -> list[str]:
    pairs = [pair for scene in scenes for pair in scene]
    prompts = [template(question) for question, _ in pairs for template in (eventgpt_prompt, video_llava_prompt)]
    return prompts + [f" {answer}" for _, answer in pairs]


def prompts_of(scenes: QuestionsAnswers, encode: Callable[[str], list[int]], tokenizer: Any, visual: int) -> Prompts:
    """Ids of all prompts and answers; `visual` is the placeholder's, `encode` makes a question's whole prompt."""
    questions = {question: encode(question) for scene in scenes for question, _ in scene}
    answers = {
        answer: [*tokenizer(f" {answer}", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        for scene in scenes
        for _, answer in scene
    }
    return split_prompts(
        [[questions[question] for question, _ in scene] for scene in scenes],
        [[answers[answer] for _, answer in scene] for scene in scenes],
        visual,
    )


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint in bfloat16 beside its final place, then put it there whole."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.to(torch.bfloat16).save_pretrained(partial)
    if bar:
        logging.enable_progress_bar()
    tokenizer.save_pretrained(partial)
    write_json(partial / "preprocessor_config.json", asdict(replace(preprocessor(), backend="torch")))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
