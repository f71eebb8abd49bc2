"""Training and judging L6 from the store: its samples say what the target answered, the scenes what was seen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from egptlib.adapters._files import WEIGHTS
from egptlib.adapters._fit import Fit, FitSettings
from egptlib.adapters._judge import GAMMAS, Judgement, judge_states
from egptlib.adapters._lora import DrafterLora, fill_lora, save_lora
from egptlib.adapters._train import Learner, LossSettings, loss_terms, train_from_store, weighed
from egptlib.hidden_states import HiddenBatch, HiddenStates

if TYPE_CHECKING:
    from egptlib.models import Inputs
    from egptlib.scenes import Scene, SceneFolder

LOSS = LossSettings(mse=0.0, cosine=0.0, token=1.0, kl=1.0)


class ScenesById(Mapping[str, "Scene"]):
    """The scenes of some folders by their ids; each is read when it is asked for."""

    def __init__(self, *folders: SceneFolder) -> None:
        self._places = {name: (folder, i) for folder in folders for i, name in enumerate(folder.ids)}

    def __getitem__(self, name: str) -> Scene:
        folder, i = self._places[name]
        return folder[i]

    def __contains__(self, name: object) -> bool:
        return name in self._places  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class AnswerReader(nn.Module):
    """The drafter's states, LoRA included, along the stored answers.

    Args:
        lora: attached to the drafter.
        scenes: by id, those that the samples are about; read when their turn comes.
        kept: visual tokens of so many scenes stay in memory; 5 MB each at 7B, 43 kB for the mini pair.
    """

    def __init__(self, lora: DrafterLora, scenes: Mapping[str, Scene], kept: int = 2000) -> None:
        super().__init__()
        self.lora, self._scenes = lora, scenes
        self._seen = lru_cache(maxsize=kept)(self._see)

    def forward(self, batch: HiddenBatch) -> Tensor:
        """[b, t, H], zeros at padding.

        Raises:
            ValueError: a sample of a scene that is not here, or without token ids.
        """
        if batch.token_ids is None:
            raise ValueError("these hidden states hold no token ids; L6 learns from them")
        device = self.lora.drafter.device
        answers = [ids[valid].long().to(device) for ids, valid in zip(batch.token_ids, batch.mask, strict=True)]
        return pad_sequence(self.lora([self._prompt(m) for m in batch.metadata], answers), batch_first=True)

    @torch.no_grad()
    def _prompt(self, metadata: dict[str, Any]) -> Tensor:
        from egptlib.models import Prompt

        drafter = self.lora.drafter
        inputs = drafter.encode(None, metadata["question"], like=self._seen(metadata["scene"]))
        prompt = Prompt.of(drafter.embed(inputs))
        if prompt.given:
            raise ValueError(f"{drafter.name}: L6 reads embeddings alone; its prompts have {', '.join(prompt.given)}")
        return prompt.embeds[0]

    @torch.no_grad()
    def _see(self, name: str) -> Inputs:
        if name not in self._scenes:
            raise ValueError(f"scene {name!r}: not among the {len(self._scenes)} scenes given")
        scene, drafter = self._scenes[name], self.lora.drafter
        inputs = drafter.encode(scene, scene.questions[0])
        drafter.embed(inputs)
        return replace(inputs, pixel_values=inputs.pixel_values[:0])  # the visual tokens are all that is needed


class LoraObjective(nn.Module):
    """The loss of a batch of stored answers, which the drafter reads with its updates on."""

    lm_head: Tensor

    def __init__(self, reader: AnswerReader, lm_head: Tensor, settings: LossSettings = LOSS) -> None:
        super().__init__()
        self.reader, self.settings = reader, settings
        self.register_buffer("lm_head", lm_head, persistent=False)

    def forward(self, batch: HiddenBatch) -> dict[str, Tensor]:
        assert batch.token_ids is not None  # the reader has looked
        head, target_head, mask = self.reader.lora.head, self.lm_head, batch.mask
        states = self.reader(batch)[mask.to(head.device)]
        wanted, ids = batch.target_hidden[mask].to(head), batch.token_ids[mask].to(head.device)
        return weighed(loss_terms(states, wanted, ids, head, self.settings, target_head), self.settings)


def judge_lora(
    lora: DrafterLora,
    scenes: Mapping[str, Scene],
    states: HiddenStates,
    gammas: Sequence[int] = GAMMAS,
    name: str | None = None,
) -> Judgement:
    """Judge L6 on all samples of `states` as `judge` does the other levels, along the target's path."""
    return _judge(AnswerReader(lora, scenes), states, gammas, name)


def train_lora(
    lora: DrafterLora,
    scenes: Mapping[str, Scene],
    states: HiddenStates,
    folder: str | os.PathLike[str],
    settings: FitSettings | None = None,
    loss: LossSettings = LOSS,
    validation: HiddenStates | None = None,
) -> Fit:
    """Train, or go on where the run in `folder` stands; `lora` ends with the best epoch's weights.

    Args:
        lora: attached to the pair's drafter.
        scenes: by id (see `ScenesById`), what the samples of `states` and `validation` are about.
        states: the target's answers to learn, with its states; the drafter's are not read.
        folder: run folder; the best updates are in its `best/`.
        settings, validation: as for `train_adapter`.
        loss: `token` and `kl` count; `mse` and `cosine` too, where both models have one width.

    Raises:
        ValueError: see `fit`; or a sample of a scene that is not given.
    """
    reader, head = AnswerReader(lora, scenes), lora.head
    lm_head = states.target_head.lm_head[: len(head)].to(head)
    learner = Learner(
        LoraObjective(reader, lm_head, loss),
        lambda held: _judge(reader, held, (5,), None),
        lambda place, row: save_lora(lora, place, **row),
        {"adapter": {"level": lora.level, **asdict(lora.settings)}, "loss": asdict(loss)},
    )
    result = train_from_store(learner, states, validation, settings or FitSettings(), Path(folder))
    fill_lora(lora, Path(folder) / "best" / WEIGHTS)
    lora.eval()
    return result


@torch.no_grad()
def _judge(reader: AnswerReader, states: HiddenStates, gammas: Sequence[int], name: str | None) -> Judgement:
    lora, was_training = reader.lora, reader.training
    reader.eval()
    result = judge_states(
        name or lora.level, lambda batch: [(0, reader(batch))], states, lora.head, gammas, lora.num_parameters
    )
    reader.train(was_training)
    return result
