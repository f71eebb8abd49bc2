"""Speculative decoding: the loop, drafters under one protocol, acceptance rules, vocabularies."""

from egptlib.decoding._adapted import AdapterDrafter, HeadDrafter, adapted_drafter
from egptlib.decoding._cascade import CascadeDrafter
from egptlib.decoding._drafter_process import DrafterProcess
from egptlib.decoding._drafter_thread import DrafterThread
from egptlib.decoding._drafters import (
    Draft,
    Drafter,
    KeepingDrafter,
    NgramDrafter,
    SequenceDrafter,
    Stop,
    WatchingDrafter,
)
from egptlib.decoding._generation import (
    Event,
    Generation,
    Recorder,
    Round,
    RoundTokens,
    acceptance_by_position,
    acceptance_by_rank,
    round_tokens,
)
from egptlib.decoding._lengths import AdaptiveLength, DraftLength, FixedLength
from egptlib.decoding._loop import (
    Divergence,
    as_drafter,
    first_divergence,
    speculative_decode,
    speculative_generate,
)
from egptlib.decoding._lossy import CosineThreshold, Deferral, Fuzzy, TopK, Typical
from egptlib.decoding._model_drafter import ModelDrafter
from egptlib.decoding._pipelined import pipelined_generate
from egptlib.decoding._prefill_hiding import ConcurrentDrafter, hidden_prefill_generate
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._retokenized import RetokenizedDrafter
from egptlib.decoding._rules import Lossless, Rule, Verdict
from egptlib.decoding._sampling import Sampler, Sampling
from egptlib.decoding._session import SceneSession, ask_together
from egptlib.decoding._stream import Streamed, stream
from egptlib.decoding._trees import TreeDrafter, TreeShape
from egptlib.models import Matching, Vocabulary, common_vocabulary, match_vocabularies, shared_vocabulary

__all__ = [
    "AdapterDrafter",
    "AdaptiveLength",
    "CascadeDrafter",
    "ConcurrentDrafter",
    "CosineThreshold",
    "Deferral",
    "Divergence",
    "Draft",
    "DraftLength",
    "Drafter",
    "DrafterProcess",
    "DrafterThread",
    "Event",
    "FixedLength",
    "Fuzzy",
    "Generation",
    "HeadDrafter",
    "KeepingDrafter",
    "Lossless",
    "Matching",
    "ModelDrafter",
    "NgramDrafter",
    "PromptReader",
    "Recorder",
    "RetokenizedDrafter",
    "Round",
    "RoundTokens",
    "Rule",
    "Sampler",
    "Sampling",
    "SceneSession",
    "SequenceDrafter",
    "Stop",
    "Streamed",
    "TopK",
    "TreeDrafter",
    "TreeShape",
    "Typical",
    "Verdict",
    "Vocabulary",
    "WatchingDrafter",
    "acceptance_by_position",
    "acceptance_by_rank",
    "adapted_drafter",
    "as_drafter",
    "ask_together",
    "common_vocabulary",
    "first_divergence",
    "hidden_prefill_generate",
    "match_vocabularies",
    "pipelined_generate",
    "round_tokens",
    "shared_vocabulary",
    "speculative_decode",
    "speculative_generate",
    "stream",
]
