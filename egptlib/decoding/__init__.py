"""Speculative decoding: the loop, drafters under one protocol, acceptance rules, vocabularies."""

from egptlib.decoding._adapted import AdapterDrafter, HeadDrafter
from egptlib.decoding._cascade import CascadeDrafter
from egptlib.decoding._drafter_process import DrafterProcess
from egptlib.decoding._drafter_thread import DrafterThread
from egptlib.decoding._drafters import Draft, Drafter, NgramDrafter, SequenceDrafter, Stop, WatchingDrafter
from egptlib.decoding._generation import (
    Event,
    Generation,
    Recorder,
    Round,
    RoundTokens,
    acceptance_by_position,
    round_tokens,
)
from egptlib.decoding._lengths import AdaptiveLength, DraftLength, FixedLength
from egptlib.decoding._loop import (
    Divergence,
    as_drafter,
    first_divergence,
    read_prompt,
    speculative_decode,
    speculative_generate,
)
from egptlib.decoding._lossy import CosineThreshold, Deferral, Fuzzy, TopK, Typical
from egptlib.decoding._model_drafter import ModelDrafter
from egptlib.decoding._pipelined import pipelined_generate
from egptlib.decoding._prefill_hiding import ConcurrentDrafter, hidden_prefill_generate
from egptlib.decoding._retokenized import RetokenizedDrafter
from egptlib.decoding._rules import Lossless, Rule, Verdict
from egptlib.decoding._sampling import Sampler, Sampling
from egptlib.decoding._vocabulary import Vocabulary, common_vocabulary, shared_vocabulary

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
    "Lossless",
    "ModelDrafter",
    "NgramDrafter",
    "Recorder",
    "RetokenizedDrafter",
    "Round",
    "RoundTokens",
    "Rule",
    "Sampler",
    "Sampling",
    "SequenceDrafter",
    "Stop",
    "TopK",
    "Typical",
    "Verdict",
    "Vocabulary",
    "WatchingDrafter",
    "acceptance_by_position",
    "as_drafter",
    "common_vocabulary",
    "first_divergence",
    "hidden_prefill_generate",
    "pipelined_generate",
    "read_prompt",
    "round_tokens",
    "shared_vocabulary",
    "speculative_decode",
    "speculative_generate",
]
