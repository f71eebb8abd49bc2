"""L6: LoRA on the drafter itself, so that it says what the target would; merged at inference, it costs nothing there.

Low-rank updates (Hu et al. 2021) on q, k, v and o of every layer of the drafter's language model, through peft. Not an
`Adapter`: what changes is the drafter, whose states are read through a frozen lm head.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from egptlib._whole import check_fields
from egptlib.adapters._build import check_fit, read_tensors
from egptlib.adapters._files import FORMAT, SETTINGS, WEIGHTS, kept_in, read_form, write_files

if TYPE_CHECKING:  # adapters on stored states must not cost the import of both models
    from peft.tuners.lora import LoraModel
    from transformers import LlamaConfig

    from egptlib.models import Model, Pair

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class LoraSettings:
    """What is added to the drafter.

    Attributes:
        rank: of each update.
        alpha: updates are scaled by alpha / rank.
        dropout: of the updates' input, in training.
        head: whose lm head reads the drafter's states, in training and when merged: the "target"'s, where both
            models have one width, or the drafter's "own".
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    head: Literal["target", "own"] = "target"

    def __post_init__(self) -> None:
        check_fields(self, "LoRA setting", rank=1, alpha=1, dropout="[0, 1)")
        if self.head not in ("target", "own"):
            raise ValueError(f"LoRA setting head: expected 'target' or 'own', got {self.head!r}")


class DrafterLora(nn.Module):
    """LoRA attached to a drafter, whose language model it changes in place until `merge` or `detach`.

    Fresh updates are zero: the drafter's states stay what they were.

    Args:
        pair: its drafter is changed; its target is read only for the lm head.
        settings: what is added.

    Attributes:
        drafter: whose states these are.
        head: [shared tokens, H] the lm head that reads them, frozen.

    Raises:
        ValueError: the drafter has LoRA already, or head "target" with models of different widths.
    """

    level = "L6"
    head: Tensor

    def __init__(self, pair: Pair, settings: LoraSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or LoraSettings()
        drafter, target = pair.drafter, pair.target
        if any("lora_" in name for name, _ in drafter.language_model.named_parameters()):
            raise ValueError(f"{drafter.name}: has LoRA attached already; merge or detach it first")
        if self.settings.head == "target" and drafter.hidden_size != target.hidden_size:
            raise ValueError(
                f"LoRA head 'target': expected models of one width, got {drafter.hidden_size} and "
                f"{target.hidden_size}; take head='own'"
            )
        if not pair.vocabulary.is_shared:
            raise ValueError(f"L6: expected models of one vocabulary; {drafter.name} and {target.name} have two")
        if self.settings.head == "own" and hasattr(drafter.lm_head, "tokens"):  # a `TrimmedHead`
            raise ValueError(f"LoRA head 'own': {drafter.name} drafts a part of its tokens; take head='target'")
        head = (target if self.settings.head == "target" else drafter).lm_head.weight[: len(pair.vocabulary)]
        self.register_buffer("head", head.detach().to(drafter.device, drafter.dtype), persistent=False)
        self.tuner = _attached(drafter.language_model, self.settings)
        self.drafter = drafter

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.updates().values())

    def updates(self) -> dict[str, nn.Parameter]:
        """The trained matrices by name."""
        return {name: p for name, p in self.tuner.model.named_parameters() if "lora_" in name}

    def forward(self, prompts: Sequence[Tensor], answers: Sequence[Tensor]) -> list[Tensor]:
        """Last hidden states [n, H] along each answer; row t predicts token t.

        Args:
            prompts: embeddings [T, H] each.
            answers: int [n] each, on the drafter's device.
        """
        rows = [
            torch.cat([prompt, self.drafter.token_embedding(ids[:-1]).to(prompt.dtype)])
            for prompt, ids in zip(prompts, answers, strict=True)
        ]
        # Padding stands on the right, where causal attention does not look.
        hidden = self.tuner.model(inputs_embeds=pad_sequence(rows, batch_first=True), use_cache=False).last_hidden_state
        return [h[len(row) - len(ids) : len(row)] for h, row, ids in zip(hidden, rows, answers, strict=True)]

    def merge(self) -> Model:
        """Add the updates to the drafter's weights and give it the lm head that it was trained through.

        Returns:
            The drafter: plain layers, as fast as before. With head "target" its logits are those of the shared
            tokens alone.

        Raises:
            ValueError: the drafter's weights are quantized.
        """
        if (precision := self.drafter.precision) in ("nf4", "int8"):
            raise ValueError(
                f"{self.drafter.name}: L6 can be trained on weights in {precision}, but not merged into them; open the "
                "pair in bfloat16 and load it there"
            )
        self.tuner.merge_and_unload(progressbar=False, safe_merge=True)
        if self.settings.head == "target":
            linear = nn.Linear(self.head.shape[1], self.head.shape[0], bias=False, device="meta")
            linear.weight = nn.Parameter(self.head, requires_grad=False)
            self.drafter.module.set_output_embeddings(linear)
            self.drafter.lm_head = linear
        return self.drafter

    def detach(self) -> Model:
        """Take the updates off again; returns the drafter as it was."""
        self.tuner.unload()
        return self.drafter


def count_lora_parameters(config: LlamaConfig | None = None, settings: LoraSettings | None = None) -> int:
    """Number of parameters of L6 at a drafter's size (the 7B one when left out), without allocating them."""
    from transformers import LlamaConfig, LlamaModel

    with torch.device("meta"):
        model = LlamaModel(config or LlamaConfig())
    rank = (settings or LoraSettings()).rank
    found = [module for name, module in model.named_modules() if name.rpartition(".")[2] in PROJECTIONS]
    return sum(rank * (module.in_features + module.out_features) for module in found)


def save_lora(lora: DrafterLora, folder: str | os.PathLike[str], **notes: Any) -> Path:
    """Write the updates alone (`adapter.safetensors`) and their settings (`adapter.json`); returns the folder."""
    told = {"level": lora.level, **asdict(lora.settings)}
    return write_files(folder, FORMAT, told, lora.updates(), notes)


def load_lora(path: str | os.PathLike[str], pair: Pair) -> DrafterLora:
    """Attach what `save_lora` wrote (or a run folder's `best/`) to a pair's drafter, in evaluation mode.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not L6, or its weights do not fit the drafter (the first difference is named).
    """
    folder = kept_in(Path(path))
    content = read_form(folder / SETTINGS, FORMAT, "the folder of an L6 adapter")
    try:
        settings = dict(content["settings"])
        level = settings.pop("level")
        if level != DrafterLora.level:
            raise ValueError(f"level is {level!r}; expected 'L6'")
        chosen = LoraSettings(**settings)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / SETTINGS}: not the settings of an L6 adapter ({error})") from None
    lora = DrafterLora(pair, chosen)
    try:
        fill_lora(lora, folder / WEIGHTS)
    except ValueError:
        lora.detach()
        raise
    return lora.eval()


@torch.no_grad()
def fill_lora(lora: DrafterLora, path: Path) -> None:
    """Copy saved updates; ValueError names the first tensor that is missing, too many or misshapen."""
    updates, tensors = lora.updates(), read_tensors(path)
    check_fit(updates, tensors, str(path))
    for name, parameter in updates.items():
        parameter.copy_(tensors[name])


def _attached(language_model: nn.Module, settings: LoraSettings) -> LoraModel:
    from peft import LoraConfig  # seconds to import
    from peft.tuners.lora import LoraModel

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(PROJECTIONS),
    )
    tuner = LoraModel(language_model, config, "default")
    for name, parameter in tuner.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()  # AdamW's small steps vanish in bfloat16
    return tuner.train(language_model.training)
