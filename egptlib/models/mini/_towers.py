"""Vision towers of the mini pair, pre-trained on ground truth through small throw-away heads.

One head tells what each patch shows, which teaches a tower to see; the other tells the slots of the whole scene, which
teaches it what matters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPVisionConfig, CLIPVisionModel

from egptlib._whole import check_fields
from egptlib.models._eventgpt import pool_spatio_temporal
from egptlib.models.mini._data import NO_VALUE, normalise
from egptlib.models.mini._optim import batches, update, warm_cosine
from egptlib.models.mini._sizes import TOWER
from egptlib.models.mini._windows import FIELDS, GRID
from egptlib.scenes import SLOTS, slot_values
from egptlib.scenes.streets import MOTIONS


@dataclass(frozen=True)
class TowerSettings:
    """How a tower is pre-trained.

    Attributes:
        pictures: which pictures of a scene it trains on; four of the eight frames show the motion at half the cost.
        shift: all pictures of a scene are shifted together by up to this many pixels.
    """

    pictures: tuple[int, ...]
    epochs: int = 16
    batch_size: int = 16
    learning_rate: float = 8e-4
    weight_decay: float = 0.05
    shift: int = 4
    seed: int = 11

    def __post_init__(self) -> None:
        check_fields(self, "training setting", epochs=1, batch_size=1, shift=0, seed=None,
                     learning_rate="(0, inf)", weight_decay="[0, inf)")  # fmt: skip


def event_tokens(features: Tensor) -> Tensor:
    """[b, n, s, d] -> [b, n + s, d], pooled as the drafter does."""
    return pool_spatio_temporal(features)


def frame_tokens(features: Tensor) -> Tensor:
    """[b, n, s, d] -> [b, n * s, d]: the target reads every token of every frame."""
    return features.flatten(1, 2)


class SlotHead(nn.Module):
    """Reads the slots from visual tokens: two transformer layers with one query per slot.

    forward: [b, t, d] -> one [b, values] per slot.
    """

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.query = nn.Parameter(0.02 * torch.randn(len(SLOTS), width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.values = nn.ModuleList(nn.Linear(width, len(slot_values(slot))) for slot in SLOTS)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        asked = self.query.expand(len(tokens), -1, -1)
        read = self.norm(self.layers(torch.cat([asked, tokens + self.place], dim=1))[:, : len(SLOTS)])
        return [head(read[:, i]) for i, head in enumerate(self.values)]


class PatchHead(nn.Module):
    """Tells what each patch shows: features [b, n, 1 + patch, d] -> one [b, n, patch, values] per field."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fields = nn.ModuleList(nn.Linear(width, count) for count in FIELDS.values())

    def forward(self, features: Tensor) -> list[Tensor]:
        patches = self.norm(features[..., 1:, :])
        return [field(patches) for field in self.fields]


def see(tower: CLIPVisionModel, pictures: Tensor) -> Tensor:
    """uint8 [b, n, S, S, 3] -> tower features [b, n, s, d]."""
    values = normalise(pictures)
    return tower(values.flatten(0, 1)).last_hidden_state.unflatten(0, values.shape[:2])


@torch.no_grad()
def see_all(tower: CLIPVisionModel, pictures: Tensor, batch_size: int = 64) -> Tensor:
    """Features of all scenes, bfloat16 [scene, n, s, d]."""
    return torch.cat([see(tower, part).bfloat16() for part in pictures.split(batch_size)])


def train_tower(
    pictures: Tensor,
    labels: Tensor,
    patches: Tensor,
    tokens: Callable[[Tensor], Tensor],
    settings: TowerSettings,
    test: tuple[Tensor, Tensor],
    name: str,
) -> tuple[CLIPVisionModel, list[dict[str, float]]]:
    """Train a tower so that its tokens tell the slots.

    Args:
        pictures: uint8 [scene, n, S, S, 3].
        labels: int64 [scene, slot], -1 where a scene has no such slot.
        patches: uint8 [scene, n, patch, field], what each patch shows.
        tokens: how the model pools tower features [b, n, s, d] into visual tokens [b, k, d].
        test: pictures and labels that the history is measured on; they change nothing.

    Returns:
        The tower; per epoch the loss, and for every second the test accuracy of each slot.
    """
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    pictures, test_pictures = pictures[:, settings.pictures], test[0][:, settings.pictures]
    patches = patches[:, settings.pictures]
    tower = CLIPVisionModel(CLIPVisionConfig(**TOWER))
    with torch.no_grad():
        num_tokens = tokens(see(tower, pictures[:1])).shape[1]
    head = SlotHead(num_tokens, int(TOWER["hidden_size"]))  # type: ignore[call-overload]
    patch_head = PatchHead(int(TOWER["hidden_size"]))  # type: ignore[call-overload]
    parameters = [*tower.parameters(), *head.parameters(), *patch_head.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    steps = settings.epochs * (len(labels) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warm_cosine(steps, steps // 20))
    mirror = _mirrored_labels()
    history = []
    with tqdm(total=steps, desc=name, unit="step", disable=None) as bar:
        for epoch in range(settings.epochs):
            tower.train(), head.train()
            losses = []
            for rows in batches(len(labels), settings.batch_size, generator):
                seen, true = _shifted(pictures[rows], settings.shift, generator), labels[rows].clone()
                flipped = torch.rand(len(rows), generator=generator) < 0.5
                seen[flipped] = seen[flipped].flip(3)
                true[flipped] = mirror[torch.arange(len(SLOTS)), true[flipped]]
                shown = patches[rows].long()
                shown[flipped] = _mirrored_patches(shown[flipped])
                features = see(tower, seen)
                loss = _slot_loss(head(tokens(features)), true) + _patch_loss(patch_head(features), shown)
                loss.backward()
                update(parameters, optimiser, schedule)
                losses.append(loss.item())
                bar.update()
            row = {"epoch": epoch + 1, "loss": sum(losses) / len(losses)}
            if epoch % 2 == 1 or epoch + 1 == settings.epochs:
                row |= _slot_accuracy(tower, head, tokens, test_pictures, test[1])
            history.append(row)
            bar.write(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    return tower.eval(), history


def _mirrored_labels() -> Tensor:
    """int64 [slot, value + 1]: the label a picture's mirror image has; the last column keeps -1 as it is."""
    widest = max(len(slot_values(slot)) for slot in SLOTS)
    table = torch.full((len(SLOTS), widest + 1), NO_VALUE)
    for row, slot in zip(table, SLOTS, strict=True):
        values = slot_values(slot)
        for i, value in enumerate(values):
            row[i] = values.index(_swap_sides(value))
    return table


def _mirrored_patches(patches: Tensor) -> Tensor:
    """Patch labels [b, n, patch, field] of the mirror image."""
    mirrored = patches.unflatten(2, (GRID, GRID)).flip(3).flatten(2, 3)
    motions = torch.tensor([0, *(1 + MOTIONS.index(_swap_sides(motion)) for motion in MOTIONS)])
    field = list(FIELDS).index("motion")
    mirrored[..., field] = motions[mirrored[..., field]]
    return mirrored


def _swap_sides(value: str) -> str:
    return " ".join({"left": "right", "right": "left"}.get(word, word) for word in value.split(" "))


def _shifted(pictures: Tensor, most: int, generator: torch.Generator) -> Tensor:
    moves = torch.randint(-most, most + 1, (len(pictures), 2), generator=generator).tolist()
    return torch.stack([torch.roll(p, move, dims=(1, 2)) for p, move in zip(pictures, moves, strict=True)])


def _slot_loss(read: list[Tensor], labels: Tensor) -> Tensor:
    losses = [F.cross_entropy(r.float(), labels[:, i], ignore_index=NO_VALUE) for i, r in enumerate(read)]
    return torch.stack(losses).mean()


def _patch_loss(read: list[Tensor], shown: Tensor) -> Tensor:
    """Cross-entropy over the patches; those that show nothing, by far the most, weigh less."""
    losses = []
    for i, values in enumerate(read):
        weight = torch.ones(values.shape[-1])
        weight[0] = 0.25
        losses.append(F.cross_entropy(values.flatten(0, -2), shown[..., i].flatten(), weight))
    return torch.stack(losses).mean()


@torch.no_grad()
def _slot_accuracy(
    tower: CLIPVisionModel, head: SlotHead, tokens: Callable[[Tensor], Tensor], pictures: Tensor, labels: Tensor
) -> dict[str, float]:
    tower.eval(), head.eval()
    read = [head(tokens(see(tower, part))) for part in pictures.split(64)]
    accuracy = {}
    for i, slot in enumerate(SLOTS):
        told, true = torch.cat([values[i] for values in read]).argmax(1), labels[:, i]
        accuracy[slot] = (told == true)[true != NO_VALUE].float().mean().item()
    return accuracy
