"""From scenes and questions to samples, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from egptlib.hidden_states._prompts import PromptRows

if TYPE_CHECKING:  # reading stored states must not cost the import of both models
    from egptlib.models import Inputs, Pair, Prompt, Reading
    from egptlib.scenes import Scene

Side = Literal["drafter", "target"]
Layers = dict[str, tuple[int, ...]]


@dataclass
class Seen:
    """A scene whose pictures go through each vision tower once, whatever is asked about it."""

    scene: Scene
    inputs: dict[str, Inputs] = field(default_factory=dict)


class SampleMaker:
    """Both models along the answers to batches of (scene, question).

    Attributes:
        num_ties: positions so far whose two likeliest tokens are within rounding of one another in the model's
            dtype, so that another batch may decide them otherwise.
    """

    def __init__(self, pair: Pair, path: str, max_new_tokens: int, layers: Layers, prompt_rows: bool = False) -> None:
        self.pair, self.path, self.max_new_tokens, self.layers = pair, path, max_new_tokens, layers
        self.prompt_rows = prompt_rows
        self._prompt_ids: list[Tensor] = []
        self.num_ties = 0
        for side, numbers in layers.items():
            getattr(pair, side).check_layers(numbers)

    def look(self, scene: Scene, question: str) -> Seen:
        """A scene with its pictures preprocessed for both models, and let go where that worked: they are large."""
        from egptlib.scenes import Scene

        seen = Seen(scene)
        try:
            for side in ("drafter", "target"):
                seen.inputs[side] = getattr(self.pair, side).encode(scene, question)
        except Exception:
            return Seen(scene)  # `make` will say whose fault it is
        if isinstance(scene, Scene):  # a user's own model may read other things
            seen.scene = replace(scene, event_images=[], frames=scene.frames[:0].copy())
        return seen

    def make(self, rows: Sequence[tuple[Seen, str]]) -> list[dict[str, Any]]:
        """What `HiddenStateWriter.add` takes, per row; with `prompt`, a `PromptRows`, where these were asked for."""
        from egptlib.models import LookUp

        length, vocabulary = self.max_new_tokens, self.pair.vocabulary
        drafter, theirs = self._prompts("drafter", rows)
        reader, prompts = self._prompts("target", rows)
        target = reader.answer(prompts, length, drafter.drafter(theirs, vocabulary))
        if self.path == "target":
            own = self._along(drafter, theirs, target)
        else:  # it is much like the target's, which drafts for it in turn
            alike = [vocabulary.to_drafter(reading.token_ids.tolist()) for reading in target]
            own = drafter.answer(theirs, length, LookUp(alike))
        samples = [self._sample(*row, *readings) for row, *readings in zip(rows, own, target, strict=True)]
        for sample, ids, reading in zip(samples, self._prompt_ids, target) if self.prompt_rows else ():
            assert reading.prompt is not None
            if len(ids) != len(reading.prompt):
                raise ValueError(f"{self.pair.target.name}: {len(ids)} ids for {len(reading.prompt)} prompt positions")
            sample["prompt"] = PromptRows(ids, reading.prompt[:, 0], reading.prompt[:, 1:])
        return samples

    def _along(self, reader: Any, prompts: Any, target: list[Reading]) -> list[Reading]:
        """The drafter along the target's answers, one row for each of the target's tokens.

        A token that the drafter lacks is read in its own tokens, or not at all; what stands before it counts.
        """
        vocabulary = self.pair.vocabulary
        if vocabulary.is_shared and all(vocabulary.writable(reading.token_ids.tolist()) == 1 for reading in target):
            return reader.read(prompts, [reading.token_ids for reading in target])
        answers = [reading.token_ids.tolist() for reading in target]
        end = min(self.pair.drafter.eos_token_ids, default=0)  # never read: it stands for what may follow
        rows = reader.read(prompts, [torch.tensor([*vocabulary.to_drafter(answer), end]) for answer in answers])
        return [_at(row, vocabulary.places(answer)) for row, answer in zip(rows, answers)]

    @torch.no_grad()
    def _prompts(self, side: Side, rows: Sequence[tuple[Seen, str]]) -> tuple[Any, Any]:
        """A reader, and the prompts as it takes them, scene by scene, as the rows are."""
        from egptlib.models import reader_for

        model = getattr(self.pair, side)
        by_scene: dict[int, list[Prompt]] = {}
        whole = self.prompt_rows and side == "target"
        ids = []
        for seen, question in rows:
            inputs = model.encode(seen.scene, question, like=seen.inputs.get(side))
            by_scene.setdefault(id(seen), []).append(model.see(inputs))
            seen.inputs[side] = inputs  # now with its visual tokens
            ids.append(inputs.input_ids[0].cpu())
        if whole:
            self._prompt_ids = ids
        scenes = list(by_scene.values())
        reader = reader_for(model, self.layers.get(side, ()), scenes, whole)
        return reader, reader.prompts(scenes)

    @torch.no_grad()
    def _sample(self, seen: Seen, question: str, drafter: Reading, target: Reading) -> dict[str, Any]:
        pair, n = self.pair, min(len(drafter.token_ids), len(target.token_ids))
        drafter_logits = pair.vocabulary.to_target(pair.drafter.lm_head(drafter.hidden[:n].to(pair.drafter.device)))
        target_logits = pair.target.lm_head(target.hidden[:n].to(pair.target.device))
        if target.rules is not None:
            target_logits = target.rules.after(target.token_ids[: n - 1])(target_logits)
        self.num_ties += num_ties(target_logits.to(pair.target.dtype))
        metadata = _metadata(seen.scene, question) | {"target_text": pair.target.decode_text(target.token_ids)}
        if self.path == "target":
            top1 = drafter_logits.argmax(dim=-1)
        else:
            top1 = torch.tensor(pair.vocabulary.from_drafter(drafter.token_ids.tolist()))
            metadata |= {"drafter_text": pair.drafter.decode_text(drafter.token_ids)}
            metadata |= {"drafter_ids": top1.tolist(), "target_ids": target.token_ids.tolist()}
        sample = {
            "drafter_hidden": drafter.hidden[:n],
            "target_hidden": target.hidden[:n],
            "token_ids": target.token_ids[:n],
            "drafter_top1": top1[:n],
            "metadata": metadata,
            **figures(drafter_logits, target_logits),
        }
        for side, reading in (("drafter", drafter), ("target", target)):
            if reading.layers is not None:
                sample[f"{side}_layers"] = reading.layers[:n]
        return sample


def _at(reading: Reading, rows: list[int]) -> Reading:
    """Some rows of a reading."""
    layers = None if reading.layers is None else reading.layers[rows]
    return replace(reading, token_ids=reading.token_ids[rows], hidden=reading.hidden[rows], layers=layers)


def _metadata(scene: Scene, question: str) -> dict[str, Any]:
    number = scene.questions.index(question) if question in scene.questions else None
    return {
        "scene": scene.id,
        "sequence": scene.sequence,
        "question": question,
        "question_index": number,
        "reference": scene.answers[number] if scene.answers and number is not None else None,
    }


def num_ties(logits: Tensor) -> int:
    """How many rows [n, V] have their two best within the rounding of a sum in their dtype."""
    best = logits.topk(2, dim=-1).values
    rounding = 4 * torch.finfo(logits.dtype).eps * best[:, 0].abs().float()
    return int((best[:, 0].float() - best[:, 1].float() <= rounding).sum())


def figures(drafter_logits: Tensor, target_logits: Tensor) -> dict[str, Tensor]:
    """Return what the two next-token distributions say at each position, float32 [n] on the CPU each.

    `overlap` is sum(min(p, q)), `drafter_confidence` max(q), `target_entropy` that of p in nats.

    Args:
        drafter_logits, target_logits: [n, V] of the target's vocabulary; -inf at tokens the drafter lacks.
    """
    q, log_p = drafter_logits.float().softmax(dim=-1), target_logits.float().log_softmax(dim=-1)
    p = log_p.exp()
    # The heads may sit on two devices.
    shared = torch.minimum(p, q.to(p.device)).sum(dim=-1)
    entropy = -(p * log_p.clamp(min=-1e4)).sum(dim=-1)  # 0 * -inf would be NaN
    return {
        "overlap": shared.clamp(max=1.0).cpu(),  # rounding of the sums may exceed 1 by 1e-7
        "drafter_confidence": q.amax(dim=-1).cpu(),
        "target_entropy": entropy.cpu(),
    }
