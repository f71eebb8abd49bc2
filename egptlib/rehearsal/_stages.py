"""What is rehearsed: the stages of both models one by one, and every way of decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch

from egptlib.adapters import LEVELS
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
    stream,
)
from egptlib.hidden_states import SampleMaker, Seen
from egptlib.models import Model, Pair, State
from egptlib.rehearsal._hollow import fill
from egptlib.rehearsal._training import LoraLesson, hollow_adapter
from egptlib.scenes import Scene, SensorClock
from egptlib.scenes.events import Events

QUESTION = "What is happening in this scene?"
NEW_TOKENS = 8  # of an answer: a draft of five, what follows it, and a second round
WORDS = 700  # ids below it are words of every vocabulary; the first hundred may be special


def noise_scene(event_images: int = 5, questions: int = 10) -> Scene:
    """Events, their images and eight frames of noise, as large as DSEC's."""
    rng, count = np.random.default_rng(0), 20_000
    noise = rng.integers(0, 256, (8, 480, 640, 3), dtype=np.uint8)
    places = {"x": rng.integers(0, 640, count, np.uint16), "y": rng.integers(0, 480, count, np.uint16)}
    events = Events(**places, t=np.linspace(0, 4e5, count).astype(np.int64), p=rng.integers(0, 2, count, np.uint8))
    events.size = (480, 640)
    return Scene(
        id="noise",
        sequence="noise",
        event_images=list(noise[:event_images]),
        frames=noise,
        questions=(QUESTION, *(f"{QUESTION[:-1]}, part {n}?" for n in range(2, questions + 1))),
        metadata={"clip": (8, 20.0)},
        frame_indices=tuple(range(8)),
        stream=events,
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
    """Every drafter, adapter, rule and mode: an answer of a few tokens by each; and a step of training L6."""
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
        "stream": lambda: stream(target, drafter, scene, QUESTION, clock=_clock(scene), **options),
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
    served = {"draft_vocab": WORDS // 2, "target_vocab": target.lm_head.weight.shape[0]}
    told["E3S, own vocabulary"] = partial(_adapted, pair, "E3S", generate, **served)
    told["L1, cosine"] = partial(_adapted, pair, "L1", partial(generate, rule=CosineThreshold()))
    if pair.vocabulary.is_shared:  # the last ones, since they change the drafter
        lora = LoraLesson(pair, scene, QUESTION)
        told["train L6"] = lora.learn
        if drafter.precision not in ("nf4", "int8"):  # merging into those is refused
            told["L6"] = partial(lora.decode, generate)
    return told


def numbers_of(name: str, length: int) -> dict[str, Any]:
    """What models say and how much prompts share in a method, as `Tally.stage` takes it."""
    if name in ("questions together", "extraction"):
        return {"number": length - 16}
    if name == "stream":  # prompts of a part of the frames share their first words at least
        return {"number": 16}
    if name == "in sequence":  # every draft is wrong, and is rolled back
        return {"tokens": (100 + n % (WORDS - 100) for n in count())}
    return {}


def _beside(pair: Pair, generate: Callable[..., Any], scene: Any) -> None:
    with DrafterThread(as_drafter(pair.drafter, pair.target, pair.matching), pair.target.eos_token_ids) as beside:
        generate(pair.target, beside, scene, QUESTION, max_new_tokens=NEW_TOKENS)


def _clock(scene: Scene) -> SensorClock:
    """So slow that all is done in time, and nobody waits for it."""
    times = [0.0]
    return SensorClock(scene, 1e-4, now=lambda: times[0], sleep=lambda left: times.append(times.pop() + left))


def _adapted(pair: Pair, level: str, generate: Callable[..., Any], **settings: Any) -> None:
    adapter = hollow_adapter(level, pair, **settings)
    fill(adapter, "cpu")  # where a trained one is loaded to
    generate(drafter=adapted_drafter(pair, adapter))
