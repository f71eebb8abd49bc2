"""The two models: EventGPT (drafter, reads events) and Video-LLaVA (target, reads video), and what they need."""

from typing import TYPE_CHECKING, Any

from egptlib.models._batch import BatchReader, Prompts, Reading
from egptlib.models._describe import describe_pair
from egptlib.models._device import usable_device
from egptlib.models._event_model import EventModel
from egptlib.models._eventgpt import EVENT_PLACEHOLDER, EventGPT, EventGPTConfig
from egptlib.models._fingerprint import fingerprint
from egptlib.models._interface import Answer, Inputs, Model, Prompt, State, Step
from egptlib.models._language_model import LanguageModel
from egptlib.models._lean import weight_versions
from egptlib.models._load import Pair, load_pair
from egptlib.models._memory import MemoryPlan, plan_memory, published_configs
from egptlib.models._open import check_against_generate, frame_sampling, open_model
from egptlib.models._pair_file import PairSettings, pair_settings
from egptlib.models._peak import peak_bytes
from egptlib.models._preprocess import Preprocessor
from egptlib.models._rows import check_rows
from egptlib.models._single import SingleReader, reader_for
from egptlib.models._step_parts import STEP_PARTS, step_parts
from egptlib.models._stopwatch import STAGES, Stopwatch, synchronize
from egptlib.models._structure import is_left_behind
from egptlib.models._tracks import LookUp, RowDraft, RowDrafter, Tracks, common_prefix, confidences
from egptlib.models._video_llava import VideoModel, load_video_llava
from egptlib.models._vision_language import VisionLanguageModel
from egptlib.models._vocabulary import (
    Matching,
    Vocabulary,
    common_vocabulary,
    match_vocabularies,
    shared_vocabulary,
    spelling,
)

if TYPE_CHECKING:  # its drawing of streets is not needed to load a pair
    from egptlib.models.mini._training import train_mini

__all__ = [
    "EVENT_PLACEHOLDER",
    "STAGES",
    "STEP_PARTS",
    "Answer",
    "BatchReader",
    "EventGPT",
    "EventGPTConfig",
    "EventModel",
    "Inputs",
    "LanguageModel",
    "LookUp",
    "Matching",
    "MemoryPlan",
    "Model",
    "Pair",
    "PairSettings",
    "Preprocessor",
    "Prompt",
    "Prompts",
    "Reading",
    "RowDraft",
    "RowDrafter",
    "SingleReader",
    "State",
    "Step",
    "Stopwatch",
    "Tracks",
    "VideoModel",
    "VisionLanguageModel",
    "Vocabulary",
    "check_against_generate",
    "check_rows",
    "common_prefix",
    "common_vocabulary",
    "confidences",
    "describe_pair",
    "fingerprint",
    "frame_sampling",
    "is_left_behind",
    "load_pair",
    "load_video_llava",
    "match_vocabularies",
    "open_model",
    "pair_settings",
    "peak_bytes",
    "plan_memory",
    "published_configs",
    "reader_for",
    "shared_vocabulary",
    "spelling",
    "step_parts",
    "synchronize",
    "train_mini",
    "usable_device",
    "weight_versions",
]


def __getattr__(name: str) -> Any:
    if name != "train_mini":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from egptlib.models.mini._training import train_mini

    return train_mini
