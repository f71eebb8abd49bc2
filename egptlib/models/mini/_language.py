"""Teaching a language model to answer from visual tokens, ten questions of a scene in one packed sequence.

The prompt's head (system text and visual tokens) is the same for every question of a scene, so it is read once and
every question with its answer hangs on it as a branch that sees the head and itself only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from egptlib._paths import atomic_write
from egptlib._whole import check_fields
from egptlib.models._trimmed import answer_loss
from egptlib.models.mini._optim import batches, update, warm_cosine

IGNORED = -100
STEPS_KEPT = 10


@dataclass(frozen=True)
class LanguageSettings:
    """Training of the projector and the language model; the vision tower stays as it is."""

    epochs: int = 8
    batch_size: int = 12
    questions: int = 5  # of the ten, drawn anew each time
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    blank_share: float = 0.1  # scenes shown blank, so that "blind" is a state the model knows
    seed: int = 21

    def __post_init__(self) -> None:
        check_fields(self, "training setting", epochs=1, batch_size=1, questions=1, seed=None,
                     learning_rate="(0, inf)", weight_decay="[0, inf)", blank_share="[0, 1]")  # fmt: skip


@dataclass(frozen=True)
class Prompts:
    """Token ids of all questions and answers.

    Attributes:
        head: ids before and after the visual tokens, common to all questions.
        branches: per scene and question the ids of the rest of the prompt and of the answer with its end token.
    """

    head: tuple[list[int], list[int]]
    branches: list[list[tuple[list[int], list[int]]]]


def split_prompts(ids: list[list[list[int]]], answers: list[list[list[int]]], visual: int) -> Prompts:
    """Cut prompts into their common head and what differs.

    Args:
        ids: per scene and question the whole prompt, visual placeholders included.
        answers: per scene and question the answer.
        visual: id of the placeholders.
    """
    first = ids[0][0]
    start, stop = first.index(visual), len(first) - first[::-1].index(visual)
    end = stop
    while all(len(p) > end + 1 and p[end] == first[end] for scene in ids for p in scene):
        end += 1
    branches = [
        [(prompt[end:], answer) for prompt, answer in zip(p, a, strict=True)] for p, a in zip(ids, answers, strict=True)
    ]
    return Prompts((first[:start], first[stop:end]), branches)


@dataclass(frozen=True)
class Packed:
    """A batch of scenes with their branches, behind heads of equal length.

    Attributes:
        ids: int64 [b, t], the branches one after another, padded.
        positions: int64 [b, h + t], restarting at h for each branch.
        mask: bool [b, 1, h + t, h + t], True where a row may look.
        labels: int64 [b, t], the next token where it belongs to an answer.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    labels: Tensor


def pack(branches: list[list[tuple[list[int], list[int]]]], head_length: int) -> Packed:
    """Pack the branches of each scene of a batch (see `Packed`)."""
    length = max(sum(len(p) + len(a) for p, a in scene) for scene in branches)
    ids = torch.zeros(len(branches), length, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    positions = torch.arange(head_length + length).repeat(len(branches), 1)
    branch_of = torch.full((len(branches), head_length + length), -1)
    branch_of[:, :head_length] = 0
    for row, scene in enumerate(branches):
        at = 0
        for number, (prompt, answer) in enumerate(scene, start=1):
            whole = torch.tensor(prompt + answer)
            span = slice(at, at + len(whole))
            ids[row, span] = whole
            labels[row, at + len(prompt) - 1 : at + len(whole) - 1] = torch.tensor(answer)
            positions[row, head_length + at : head_length + at + len(whole)] = head_length + torch.arange(len(whole))
            branch_of[row, head_length + at : head_length + at + len(whole)] = number
            at += len(whole)
    causal = torch.ones(head_length + length, head_length + length, dtype=torch.bool).tril()
    same = branch_of[:, :, None] == branch_of[:, None, :]
    mask = causal & (same | (branch_of[:, None, :] == 0))
    return Packed(ids, positions, mask[:, None], labels)


def packed_loss(module: Any, language_model: nn.Module, head: Tensor, packed: Packed) -> Tensor:
    """Cross-entropy in nats of the answers of a batch behind the embeddings [b, h, hidden] of its heads."""
    hidden = language_model(
        inputs_embeds=torch.cat([head, module.get_input_embeddings()(packed.ids)], dim=1),
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state[:, -packed.ids.shape[1] :]
    told = packed.labels != IGNORED
    return answer_loss(module.get_output_embeddings(), hidden[told], packed.labels[told])


def train_language(
    module: Any,
    language_model: nn.Module,
    embed_visual: Callable[[Tensor], Tensor],
    features: Tensor,
    blank: Tensor,
    prompts: Prompts,
    settings: LanguageSettings,
    name: str,
    trains: Callable[[str], bool] = lambda label: "tower" not in label,
    checkpoint: Path | None = None,
    beside: Callable[[int], Tensor] | None = None,
) -> list[dict[str, float]]:
    """Train a model, by default everything but its vision towers, to give the answers.

    Args:
        module: gives the token embedding and the lm head.
        language_model: embeddings to last hidden states.
        embed_visual: tower features [b, n, s, d] to visual tokens [b, k, hidden].
        features: bfloat16 [scene, n, s, d] of all scenes.
        blank: [n, s, d], features of a blank input.
        prompts: of the same scenes.
        trains: whether the parameter of a name is trained.
        checkpoint: written every ten steps; where it is there, training goes on from it, with the same outcome.
        beside: a step's number, from 1, to another loss, which is added.

    Returns:
        One row per epoch: loss per answer token in nats, without the other one.
    """
    for label, parameter in module.named_parameters():
        parameter.requires_grad_(trains(label))
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    # bfloat16 weights do the work, float32 copies take the updates: on a CPU faster than autocast, and the weights
    # that are trained are the ones that are stored
    for parameter in module.parameters():  # not `module.to`: that would round the rotary frequencies too
        parameter.data = parameter.data.to(torch.bfloat16)
    trained: list[Any] = [parameter for parameter in module.parameters() if parameter.requires_grad]
    masters = [nn.Parameter(parameter.detach().float()) for parameter in trained]
    optimiser = torch.optim.AdamW(
        masters, settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    steps = settings.epochs * (len(features) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warm_cosine(steps, steps // 15))
    embedding = module.get_input_embeddings()
    before, after = (torch.tensor(part, dtype=torch.long) for part in prompts.head)
    losses = _resume(checkpoint, masters, optimiser, schedule)
    for master, parameter in zip(masters, trained, strict=True):
        parameter.data.copy_(master.data)
    history, step = [], 0
    module.train()
    with tqdm(total=steps, desc=name, unit="step", disable=None) as bar:
        for epoch in range(settings.epochs):
            for rows in batches(len(features), settings.batch_size, generator):
                blanked = torch.rand(len(rows), generator=generator) < settings.blank_share
                branches = _draw(prompts, rows, settings.questions, generator)
                step += 1
                bar.update()
                if step <= len(losses):  # done before the checkpoint was written: only the drawing is repeated
                    continue
                seen = features[rows]
                seen[blanked] = blank
                visual = embed_visual(seen)
                packed = pack(branches, len(before) + visual.shape[1] + len(after))
                text = embedding(torch.cat([before, after]))[None].expand(len(rows), -1, -1)
                head = torch.cat([text[:, : len(before)], visual, text[:, len(before) :]], dim=1)
                loss = packed_loss(module, language_model, head, packed)
                (loss if beside is None else loss + beside(step)).backward()
                for master, parameter in zip(masters, trained, strict=True):
                    master.grad, parameter.grad = parameter.grad.float(), None
                update(masters, optimiser, schedule)
                for master, parameter in zip(masters, trained, strict=True):
                    parameter.data.copy_(master.data)
                losses.append(loss.item())
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                if checkpoint and (step % STEPS_KEPT == 0 or step == steps):
                    _keep(checkpoint, masters, optimiser, schedule, losses)
            now = losses[step // (epoch + 1) * epoch : step]
            history.append({"epoch": epoch + 1, "loss": sum(now) / len(now)})
            bar.write(f"{name}: epoch {epoch + 1}, {history[-1]['loss']:.4f} nats a token")
    module.eval()
    return history


def _resume(
    checkpoint: Path | None,
    masters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> list[float]:
    """Take over weights and optimiser where a checkpoint is; the losses of the steps done."""
    if checkpoint is None or not checkpoint.exists():
        return []
    kept = torch.load(checkpoint, weights_only=True)
    for master, value in zip(masters, kept["masters"], strict=True):
        master.data.copy_(value)
    optimiser.load_state_dict(kept["optimiser"])
    schedule.load_state_dict(kept["schedule"])
    return kept["losses"]


def _keep(
    checkpoint: Path,
    masters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    losses: list[float],
) -> None:
    kept = {
        "masters": [master.data for master in masters],
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "losses": losses,
    }
    with atomic_write(checkpoint) as partial:
        torch.save(kept, partial)


def _draw(
    prompts: Prompts, rows: Tensor, count: int, generator: torch.Generator
) -> list[list[tuple[list[int], list[int]]]]:
    """Some of each scene's branches, in random order."""
    drawn = []
    for scene in rows.tolist():
        branches = prompts.branches[scene]
        drawn.append([branches[i] for i in torch.randperm(len(branches), generator=generator)[:count].tolist()])
    return drawn
