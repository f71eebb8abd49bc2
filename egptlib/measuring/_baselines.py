"""What transformers itself offers for a target: its `generate`, and what `generate` offers to be faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationMixin
from transformers.generation.streamers import BaseStreamer

from egptlib.measuring._methods import Method, token_ids_of
from egptlib.models import Model, PromptAs, match_vocabularies


def transformers_generate(
    target: Model, max_new_tokens: int, prompt_as: PromptAs | None = None, **options: Any
) -> Method:
    """transformers' own greedy `generate` of the target, as a method; `options` go to it.

    Args:
        prompt_as: see `Model.generate_inputs`.
    """

    def call(scene: Any, question: str) -> list[int]:
        with torch.no_grad():
            inputs = target.generate_inputs(target.encode(scene, question), prompt_as)
            out: Any = GenerationMixin.generate(
                target.module, **inputs, do_sample=False, max_new_tokens=max_new_tokens, **options
            )
        asked = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0  # ids come back with the answer
        ids: list[int] = out[0, asked:].tolist()
        return ids

    return call


@dataclass(frozen=True)
class TimedAnswer:
    """An answer's token ids, and the seconds from the question (or from a window's end) to its first and its last."""

    first: float
    last: float
    token_ids: list[int]


def timed_generate(target: Model, max_new_tokens: int) -> Callable[[Any, str], TimedAnswer]:
    """`transformers_generate`, with the time of its first token."""

    def call(scene: Any, question: str) -> TimedAnswer:
        stamps = _Stamps()
        start = time.perf_counter()
        ids = token_ids_of(transformers_generate(target, max_new_tokens, streamer=stamps)(scene, question))
        return TimedAnswer(stamps.times[1] - start, time.perf_counter() - start, ids)

    return call


class _Stamps(BaseStreamer):
    """When `generate` hands out the prompt, and then each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is kept back."""


def transformers_baselines(
    target: Model,
    prompts: Sequence[tuple[Any, str]],
    max_new_tokens: int,
    num_tokens: int = 5,
    assistants: Sequence[Model] = (),
) -> tuple[dict[str, Method], dict[str, str]]:
    """What transformers' own `generate` offers to speed the target up, each tried on prompts.

    The prompt is given as ids and pictures, and where that is refused as embeddings. Given ids, prompt look-up drafts
    the tokens of pictures too, which most classes refuse, some at the first prompt and some at a later one; given
    embeddings, it looks into the answer only (`NgramDrafter` also into the question), and there is nothing that an
    assistant could read.

    Args:
        prompts: scene and question. A method is accepted where none of them is refused; given embeddings, where no
            token of a picture can be drafted, the first one tells.
        num_tokens: that prompt look-up drafts.
        assistants: text-only language models that draft (`assistant_model`), over whatever vocabularies.

    Returns:
        The methods it accepts, and by name the messages with which it refuses the others.
    """
    options: dict[str, dict[str, Any]] = {
        f"generate, prompt look-up {num_tokens}": {"prompt_lookup_num_tokens": num_tokens}
    }
    for assistant in assistants:
        drafts: dict[str, Any] = {"assistant_model": assistant.module}
        if not match_vocabularies(assistant, target).is_shared:
            drafts |= {"tokenizer": target.tokenizer, "assistant_tokenizer": assistant.tokenizer}
        options[f"generate, assistant {assistant.name}"] = drafts
    # Rules of a generation_config.json look at ids or at none, as the answers are compared.
    ways: tuple[PromptAs | None, ...] = (None,) if target.rule_settings else ("ids", "embeddings")
    accepted, refused = dict[str, Method](), dict[str, str]()
    for name, chosen in options.items():
        messages = []
        for way in ways:
            method = transformers_generate(target, max_new_tokens, way, **chosen)
            try:
                for prompt in prompts[:1] if way == "embeddings" else prompts:
                    method(*prompt)
            except Exception as error:  # whatever it cannot do: that is what is asked here
                message = f"{type(error).__name__}: {' '.join(str(error).split())}"
                messages.append(f"given {way}: {message}" if way else message)
            else:
                accepted[name] = method
                break
        else:
            refused[name] = "; ".join(messages)
    return accepted, refused
