"""The speculative loop: prefill, draft, verify, roll back, until the answer ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from egptlib._clock import Recorder
from egptlib.decoding._drafters import Draft, Drafter, SequenceDrafter, reads_prompt, source_layers
from egptlib.decoding._generation import Generation
from egptlib.decoding._lengths import DraftLength
from egptlib.decoding._model_drafter import ModelDrafter, RetokenizedDrafter
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._round import OpenAnswer, Options, Settings
from egptlib.decoding._rules import Lossless, Rule
from egptlib.decoding._sampling import Sampler
from egptlib.decoding._trees import TreeDrafter, TreeShape
from egptlib.models import Matching, Model, State, check_trees, common_prefix, match_vocabularies, tree_depths


def speculative_generate(
    target: Model,
    drafter: Drafter | Model,
    scene: Any,
    question: str,
    *,
    reader: PromptReader | None = None,
    **options: Unpack[Options],
) -> Generation:
    """Answer a question about a scene: the drafter proposes, the target verifies. The models run in sequence.

    Args:
        target: the model whose answer it is.
        drafter: a model (see `as_drafter`), or anything that follows the `Drafter` protocol.
        reader: the target's for this scene, with what earlier questions left (see `SceneSession`).
        gamma: draft tokens per verification, or a policy (`DraftLength`), or the shape of trees (`TreeShape`);
            5 when left out.
        max_new_tokens: the answer ends there, or with an end token of the target; 50 when left out.
        sampling: None decodes greedily.
        generator: source of chance, on the CPU.
        rule: the acceptance rule; None is the lossless one.

    Raises:
        ValueError: a limit below 1, or a drafter without any of the target's tokens; trees where drafter, target or
            rule knows chains alone.

    Example:
        >>> from egptlib import load_pair, open_scenes
        >>> pair, scene = load_pair(), open_scenes("streets", num_sequences=1)[0]
        >>> question = "Where is the nearest vehicle?"
        >>> generation = speculative_generate(pair.target, pair.drafter, scene, question, gamma=5)
        >>> ids, _ = pair.target.decode_greedy(pair.target.start(scene, question), 50)
        >>> generation.token_ids.tolist() == ids.tolist(), generation.mean_acceptance_length > 1
        (True, True)
    """
    recorder, drafter = Recorder(), as_drafter(drafter, target)
    settings = Settings(**options)
    if not settings.length.pays(settings.max_new_tokens):
        drafter, options["gamma"] = SequenceDrafter(), 0
    reader = reader or PromptReader(target, scene, "target")
    state = reader.read(question, recorder, source_layers(drafter), reads_prompt(drafter))
    drafter.start(scene, question, recorder)
    return speculative_decode(target, state, drafter, recorder=recorder, **options)


@torch.no_grad()
def speculative_decode(
    target: Model,
    state: State,
    drafter: Drafter,
    *,
    recorder: Recorder | None = None,
    draft: Draft | None = None,
    stop: Callable[[], bool] | None = None,
    **options: Unpack[Options],
) -> Generation:
    """Go on from a prompt that both models have read.

    Args:
        state: the target's, straight after its prefill; with the layers that a `WatchingDrafter` asks for.
        draft: the answer's first tokens, if they were drafted already (while the target read its prompt). They are
            verified at once; without them the first token comes from the prefill itself.
        stop: asked before each pass of the target; True ends the answer where it stands.
        options: as in `speculative_generate`.
    """
    settings, recorder = Settings(**options), recorder or Recorder()
    length = settings.length
    if isinstance(length, TreeShape):
        check_trees_known(target, drafter, settings.rule)
    answer = OpenAnswer(target, state, settings, recorder, drafter)
    length.start()
    draft = (draft or Draft()).first(answer.room)
    if not draft.tokens:
        answer.begin()
    while not (answer.ended or (stop is not None and stop())):
        if answer.tokens:
            draft = propose(drafter, answer.tokens, answer.room, settings.sampler, length, recorder)
        drafted, accepted, _ = answer.judge(draft)
        length.observe(drafted, accepted)
    return answer.close()


def as_drafter(drafter: Drafter | Model, target: Model, matching: Matching = "tokens") -> Drafter:
    """A model as a drafter over the target's vocabulary; a drafter as it is.

    Args:
        matching: "tokens" drafts those that both vocabularies have (all where they are one; token-level intersection,
            Timor et al. 2025, algorithm 4), "text" splits the drafted text anew (string-level exact match, algorithm
            2 there). Both keep the target's output.
    """
    if not isinstance(drafter, Model):
        parts = ("name", "device", "start", "propose")
        if isinstance(drafter, type) or not all(hasattr(drafter, part) for part in parts):
            raise ValueError(f"drafter {drafter!r:.50}: expected a model, or an object with {', '.join(parts)}")
        return drafter
    if matching == "text":
        return RetokenizedDrafter(drafter, target)
    return ModelDrafter(drafter, match_vocabularies(drafter, target))


def propose(
    drafter: Drafter, tokens: list[int], room: int, sampler: Sampler, length: DraftLength, recorder: Recorder
) -> Draft:
    """Ask the drafter for tokens after `tokens`, at most `room` of them on one path."""
    count = min(length.count(), room)
    if count < 1:
        return Draft()
    with recorder("drafter", "draft", drafter.device) as info:
        if isinstance(length, TreeShape):
            assert isinstance(drafter, TreeDrafter)
            draft = drafter.propose_tree(tokens, length, min(length.depth, room), sampler)
        else:
            # At 0 nothing stops a draft, and nobody need ask at each token.
            stop = length.stop if getattr(length, "min_confidence", 1.0) > 0 else None
            draft = drafter.propose(tokens, count, sampler, stop)
            if not isinstance(draft, Draft):
                raise ValueError(f"{drafter.name}: expected propose() to give a Draft, found {draft!r:.50}")
            draft = draft.first(count)
        info.update(drafted=len(draft.tokens), tokens=list(draft.tokens))
        if draft.parents is not None:
            info["parents"] = list(draft.parents)
        if isinstance(length, TreeShape):
            info["depth"] = max(tree_depths(draft.parents or range(-1, len(draft.tokens) - 1)), default=-1) + 1
    return draft


def check_trees_known(target: Model, drafter: Drafter, rule: Rule) -> None:
    """Raises ValueError where one of them knows chains alone; it is named."""
    if not isinstance(drafter, TreeDrafter):
        raise ValueError(f"{drafter.name}: drafts chains alone, no trees")
    if type(rule) is not Lossless:
        raise ValueError(f"{rule.name}: this rule judges chains alone, no trees")
    check_trees(target)


@dataclass(frozen=True)
class Divergence:
    """Where two greedy answers part: the position, both tokens (None: the answer had ended), and the gap between the
    two best logits of the target there. In low precision a small gap says that rounding broke a tie: `spacing` is the
    distance of neighbouring numbers of the logits' dtype there, so a gap of a few spacings is rounding."""

    position: int
    token: int | None
    reference: int | None
    gap: float
    spacing: float


def first_divergence(
    target: Model, scene: Any, question: str, token_ids: Sequence[int] | Tensor, reference: Sequence[int] | Tensor
) -> Divergence | None:
    """Compare an answer with plain decoding's; None where they are identical."""
    ours, theirs = ([int(token) for token in ids] for ids in (token_ids, reference))
    if ours == theirs:
        return None
    at = common_prefix(ours, theirs)
    _, logits = target.forward_answer(target.encode(scene, question), [*ours[:at], 0])
    best = logits[-1].float().topk(2).values
    return Divergence(
        position=at,
        token=ours[at] if at < len(ours) else None,
        reference=theirs[at] if at < len(theirs) else None,
        gap=float(best[0] - best[1]),
        spacing=math.ldexp(torch.finfo(logits.dtype).eps, math.frexp(float(best[0]))[1] - 1),
    )
