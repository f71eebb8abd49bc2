"""From scenes and questions to samples, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

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

    def __init__(self, pair: Pair, path: str, max_new_tokens: int, layers: Layers) -> None:
        self.pair, self.path, self.max_new_tokens, self.layers = pair, path, max_new_tokens, layers
        self.num_ties = 0
        for side, numbers in layers.items():
            getattr(pair, side).check_layers(numbers)

    def make(self, rows: Sequence[tuple[Seen, str]]) -> list[dict[str, Any] | ValueError]:
        """What `HiddenStateWriter.add` takes, per row; an error instead for a row that cannot be stored."""
        reader, prompts, places = self._prompts("target", rows)
        target = reader.answer(prompts, self.max_new_tokens)
        reader, prompts, _ = self._prompts("drafter", rows)
        if self.path == "target":
            # A token the drafter lacks is reported below; it must not stop the others.
            shared = self.pair.num_shared_tokens
            drafter = reader.read(prompts, [reading.token_ids.clamp(max=shared - 1) for reading in target])
        else:
            drafter = reader.answer(prompts, self.max_new_tokens)
        return [self._sample(*row, drafter[place], target[place]) for row, place in zip(rows, places)]

    @torch.no_grad()
    def _prompts(self, side: Side, rows: Sequence[tuple[Seen, str]]) -> tuple[Any, Any, list[int]]:
        """A reader, the prompts as it takes them (a rectangle of scenes and questions), and where in it each row is."""
        from egptlib.models import reader_for

        model = getattr(self.pair, side)
        by_scene: dict[int, list[Prompt]] = {}
        order = []
        for seen, question in rows:
            inputs = model.encode(seen.scene, question, like=seen.inputs.get(side))
            prompts = by_scene.setdefault(id(seen), [])
            order.append((id(seen), len(prompts)))
            prompts.append(model.see(inputs))
            seen.inputs[side] = inputs  # now with its visual tokens
        widest = max(map(len, by_scene.values()))
        scenes = [prompts + prompts[:1] * (widest - len(prompts)) for prompts in by_scene.values()]
        number = {scene: i for i, scene in enumerate(by_scene)}
        reader = reader_for(model, self.layers.get(side, ()), scenes)
        return reader, reader.prompts(scenes), [number[scene] * widest + i for scene, i in order]

    @torch.no_grad()
    def _sample(self, seen: Seen, question: str, drafter: Reading, target: Reading) -> dict[str, Any] | ValueError:
        pair, n = self.pair, min(len(drafter.token_ids), len(target.token_ids))
        drafter_logits = pair.drafter.lm_head(drafter.hidden[:n].to(pair.drafter.device))
        target_logits = pair.target.lm_head(target.hidden[:n].to(pair.target.device))
        if target.rules is not None:
            target_logits = target.rules.after(target.token_ids[: n - 1])(target_logits)
        self.num_ties += num_ties(target_logits.to(pair.target.dtype))
        metadata = _metadata(seen.scene, question) | {"target_text": pair.target.decode_text(target.token_ids)}
        if self.path == "target":
            highest = int(target.token_ids.max())
            if highest >= pair.num_shared_tokens:
                return ValueError(
                    f"the target's answer holds token {highest}, which the drafter does not have "
                    f"(shared are the first {pair.num_shared_tokens})"
                )
            top1 = drafter_logits.argmax(dim=-1)
        else:
            top1 = drafter.token_ids[:n]
            metadata |= {"drafter_text": pair.drafter.decode_text(drafter.token_ids)}
            metadata |= {"drafter_ids": drafter.token_ids.tolist(), "target_ids": target.token_ids.tolist()}
        sample = {
            "drafter_hidden": drafter.hidden[:n],
            "target_hidden": target.hidden[:n],
            "token_ids": target.token_ids[:n],
            "drafter_top1": top1,
            "metadata": metadata,
            **figures(drafter_logits, target_logits, pair.num_shared_tokens),
        }
        for side, reading in (("drafter", drafter), ("target", target)):
            if reading.layers is not None:
                sample[f"{side}_layers"] = reading.layers[:n]
        return sample


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


def figures(drafter_logits: Tensor, target_logits: Tensor, num_shared_tokens: int) -> dict[str, Tensor]:
    """Return what the two next-token distributions say at each position, float32 [n] on the CPU each.

    `overlap` is sum(min(p, q)), `drafter_confidence` max(q), `target_entropy` that of p in nats.

    Args:
        drafter_logits, target_logits: [n, V] of each model's own vocabulary.
        num_shared_tokens: ids below it mean the same to both; the rest can never agree.
    """
    q, log_p = drafter_logits.float().softmax(dim=-1), target_logits.float().log_softmax(dim=-1)
    p = log_p.exp()
    # The heads may sit on two devices.
    shared = torch.minimum(p[:, :num_shared_tokens], q[:, :num_shared_tokens].to(p.device)).sum(dim=-1)
    entropy = -(p * log_p.clamp(min=-1e4)).sum(dim=-1)  # 0 * -inf would be NaN
    return {
        "overlap": shared.clamp(max=1.0).cpu(),  # rounding of the sums may exceed 1 by 1e-7
        "drafter_confidence": q.amax(dim=-1).cpu(),
        "target_entropy": entropy.cpu(),
    }
