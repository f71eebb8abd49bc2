"""The two models: EventGPT (drafter, reads events) and Video-LLaVA (target, reads video), and what they need."""

from egptlib.models._describe import describe_pair
from egptlib.models._event_model import EventModel
from egptlib.models._eventgpt import EVENT_PLACEHOLDER, EventGPT, EventGPTConfig
from egptlib.models._interface import Answer, Inputs, Model, State, Step
from egptlib.models._load import Pair, load_pair
from egptlib.models._memory import MemoryPlan, plan_memory, published_configs
from egptlib.models._preprocess import Preprocessor
from egptlib.models._stopwatch import STAGES, Stopwatch, synchronize
from egptlib.models._video_llava import VideoModel, load_video_llava

__all__ = [
    "EVENT_PLACEHOLDER",
    "STAGES",
    "Answer",
    "EventGPT",
    "EventGPTConfig",
    "EventModel",
    "Inputs",
    "MemoryPlan",
    "Model",
    "Pair",
    "Preprocessor",
    "State",
    "Step",
    "Stopwatch",
    "VideoModel",
    "describe_pair",
    "load_pair",
    "load_video_llava",
    "plan_memory",
    "published_configs",
    "synchronize",
]
