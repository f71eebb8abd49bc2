"""Speculative decoding: the loop, drafters under one protocol, acceptance rules, vocabularies."""

from egptlib.decoding._drafters import Draft, Drafter, NgramDrafter, SequenceDrafter, Stop
from egptlib.decoding._generation import Event, Generation, Recorder, Round, acceptance_by_position
from egptlib.decoding._lengths import DraftLength, FixedLength
from egptlib.decoding._loop import as_drafter, read_prompt, speculative_decode, speculative_generate
from egptlib.decoding._model_drafter import ModelDrafter
from egptlib.decoding._rules import Lossless, Rule, Verdict
from egptlib.decoding._sampling import Sampler, Sampling
from egptlib.decoding._vocabulary import Vocabulary, common_vocabulary, shared_vocabulary

__all__ = [
    "Draft",
    "DraftLength",
    "Drafter",
    "Event",
    "FixedLength",
    "Generation",
    "Lossless",
    "ModelDrafter",
    "NgramDrafter",
    "Recorder",
    "Round",
    "Rule",
    "Sampler",
    "Sampling",
    "SequenceDrafter",
    "Stop",
    "Verdict",
    "Vocabulary",
    "acceptance_by_position",
    "as_drafter",
    "common_vocabulary",
    "read_prompt",
    "shared_vocabulary",
    "speculative_decode",
    "speculative_generate",
]
