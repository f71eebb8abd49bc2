"""What is rehearsed: the stages of both models one by one, and every way of decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from egptlib.adapters import CLASSES, LEVELS, create_adapter
from egptlib.decoding import (
    CascadeDrafter,
    CosineThreshold,
    Deferral,
    DrafterThread,
    Fuzzy,
    NgramDrafter,
    Sampling,
    SceneSession,
    TopK,
    TreeShape,
    Typical,
    adapted_drafter,
    as_drafter,
    hidden_prefill_generate,
    pipelined_generate,
    speculative_generate,
)
from egptlib.hidden_states import SampleMaker, Seen
from egptlib.models import Model, Pair, State
from egptlib.rehearsal._hollow import fill

QUESTION = "What is happening in this scene?"
NEW_TOKENS = 8  # of an answer: a draft of five, what follows it, and a second round
WORDS = 700  # ids below it are words of every vocabulary; the first hundred may be special


def noise_scene(event_images: int = 5, questions: int = 10) -> Any:
    """Event images and eight frames of noise, as large as DSEC's."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 480, 640, 3), dtype=np.uint8)
    asked = [QUESTION, *(f"{QUESTION[:-1]}, part {n}?" for n in range(2, questions + 1))]
    return SimpleNamespace(
        id="noise",
        sequence="noise",
        event_images=list(noise[:event_images]),
        frames=noise,
        metadata={},
        questions=asked,
        answers=None,
    )


class Bench:
    """One model, stage by stage."""

    def __init__(self, model: Model, scene: Any):
        self.model, self.scene = model, scene
        self.embeds: Any = None
        self.state: State | Any = None

    def stages(self, sizes: Sequence[int]) -> dict[str, Callable[[], Any]]:
        """In their order; "read n" is a pass over n tokens behind the prompt, with choosing what follows each."""
        passes = {f"read {n}": partial(self.read, n) for n in sizes}
        return {"preprocess": self.preprocess, "vision": self.see, "prefill": self.prefill, **passes}

    def preprocess(self) -> None:
        self.inputs = self.model.encode(self.scene, QUESTION)

    def see(self) -> None:
        self.embeds = self.model.embed(self.inputs)

    def prefill(self) -> None:
        self.state = self.model.prefill(self.embeds)
        int(self.state.logits.argmax())

    def read(self, n: int) -> None:
        length = self.state.length
        tokens = torch.tensor([[3] * n], device=self.model.device)
        self.model.step(tokens, self.state).logits.argmax(dim=-1).tolist()
        self.model.rollback(self.state, length)


def methods(pair: Pair, scene: Any) -> dict[str, Callable[[], Any]]:
    """Every drafter, adapter, rule and mode: an answer of a few tokens by each."""
    target, drafter = pair.target, pair.drafter
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS}
    generate = partial(speculative_generate, target, scene=scene, question=QUESTION, **options)
    told: dict[str, Callable[[], Any]] = {
        "target alone": lambda: target.greedy(scene, QUESTION, NEW_TOKENS),
        "in sequence": lambda: generate(drafter=drafter),
        "sampling": lambda: generate(drafter=drafter, sampling=Sampling(0.8, 10, 0.9)),
        "trees": lambda: generate(drafter=drafter, gamma=TreeShape(6, 3, 2)),
        "n-grams": lambda: generate(drafter=NgramDrafter()),
        "by text": lambda: generate(drafter=as_drafter(drafter, target, "text")),
        "hidden prefill": lambda: _beside(pair, partial(hidden_prefill_generate, overlap=False), scene),
        "pipelined": lambda: _beside(pair, pipelined_generate, scene),
        "questions together": lambda: SceneSession(target, drafter, scene).ask_all(scene.questions, **options),
        "extraction": lambda: SampleMaker(pair, "target", NEW_TOKENS, {"target": (1,)}).make(
            [(seen, question) for seen in [Seen(scene)] for question in scene.questions]
        ),
    }
    for rule in (TopK(), Typical(), Fuzzy(), Deferral()):
        told[rule.name] = partial(generate, drafter=drafter, rule=rule)
    if pair.vocabulary.is_shared:
        told["cascade"] = lambda: generate(drafter=CascadeDrafter(drafter, NgramDrafter(), pair.vocabulary))
    for level in LEVELS:
        told[level] = partial(_adapted, pair, level, generate)
    told["L1, cosine"] = partial(_adapted, pair, "L1", partial(generate, rule=CosineThreshold()))
    return told


def numbers_of(name: str, length: int) -> dict[str, Any]:
    """What models say and how much prompts share in a method, as `Tally.stage` takes it."""
    if name in ("questions together", "extraction"):
        return {"number": length - 16}
    if name == "in sequence":  # every draft is wrong, and is rolled back
        return {"tokens": (100 + n % (WORDS - 100) for n in count())}
    return {}


def _beside(pair: Pair, generate: Callable[..., Any], scene: Any) -> None:
    with DrafterThread(as_drafter(pair.drafter, pair.target, pair.matching), pair.target.eos_token_ids) as beside:
        generate(pair.target, beside, scene, QUESTION, max_new_tokens=NEW_TOKENS)


def _adapted(pair: Pair, level: str, generate: Callable[..., Any]) -> None:
    layers = len(pair.target.language_model.layers)  # type: ignore[arg-type]
    settings: dict[str, Any] = {}
    if "target_layers" in CLASSES[level].inputs:
        fused = sorted({1, max(1, layers // 2), layers})
        settings = {"source_layers": tuple(fused), "num_source_layers": len(fused)}
    with torch.device("meta"):
        adapter = create_adapter(
            level, hidden_size=pair.target.hidden_size, drafter_size=pair.drafter.hidden_size, **settings
        )
    fill(adapter, "cpu")  # where a trained one is loaded to
    generate(drafter=adapted_drafter(pair, adapter))
