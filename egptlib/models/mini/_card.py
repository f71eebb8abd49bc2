"""Does the mini pair see? Slot accuracy of both models, each beside itself with its visual input blanked."""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from egptlib._paths import atomic_write, write_json
from egptlib.models._batch import BatchReader
from egptlib.models._interface import Model
from egptlib.models._load import Pair, load_pair
from egptlib.models._pair_file import PairSettings
from egptlib.models.mini._data import NO_VALUE
from egptlib.models.mini._sizes import EVENT_VIEWS, NUM_FRAMES
from egptlib.scenes import MOVING_SLOTS, QUESTIONS, SLOT_QUESTIONS, SLOTS, Scene, SceneFolder, read_slots, slot_values

MAX_NEW_TOKENS = 64
COLUMNS = ("target", "target_blind", "drafter", "drafter_blind")


def measure_slots(pair: PairSettings, scenes: SceneFolder, train_labels: Tensor) -> dict[str, dict[str, float]]:
    """Slot accuracy on scenes that the pair was not trained on.

    Args:
        pair: the mini or the midi one.
        scenes: of streets.
        train_labels: int64 [scene, slot]; the majority value of each slot is fitted on them.

    Returns:
        slot -> drafter, drafter_blind, target, target_blind, majority, scenes (how many have the slot).
    """
    parts = [scenes[i : i + 12] for i in range(0, len(scenes), 12)]
    jobs = joblib.Parallel(n_jobs=2, return_as="generator")(joblib.delayed(_told)(pair, part) for part in parts)
    bar = tqdm(jobs, total=len(parts), desc="slots of the test split", unit="dozen", disable=None)
    told = [scene for part in bar for scene in part]
    guessed = majority(train_labels)
    hits: Counter[tuple[str, str]] = Counter()
    for scene, columns in zip(scenes.metadata(), told, strict=True):
        for slot, value in scene["slots"].items():
            hits[slot, "scenes"] += 1
            for column, slots in (columns | {"majority": guessed}).items():
                hits[slot, column] += slots.get(slot) == value
    return {
        slot: {column: hits[slot, column] / hits[slot, "scenes"] for column in (*COLUMNS, "majority")}
        | {"scenes": hits[slot, "scenes"]}
        for slot in SLOTS
    }


@cache
def _pair_and_blind(settings: PairSettings) -> tuple[Pair, dict[str, dict[str, str]]]:
    """The pair, and what its models tell of a scene without events and with black frames (of any scene the same)."""
    pair = load_pair(settings)
    size = (480, 640, 3)
    nothing = Scene(
        id="blank",
        sequence="blank",
        event_images=[np.full(size, 255, np.uint8)] * EVENT_VIEWS,
        frames=np.zeros((NUM_FRAMES, *size), np.uint8),
        questions=QUESTIONS,
        answers=None,
        rendering="last",
        frame_sampling="even",
        frame_indices=tuple(range(NUM_FRAMES)),
    )
    return pair, {"drafter_blind": _read(pair.drafter, nothing), "target_blind": _read(pair.target, nothing)}


def _told(settings: PairSettings, scenes: SceneFolder) -> list[dict[str, dict[str, str]]]:
    """Per scene and column the slots that are told."""
    pair, blind = _pair_and_blind(settings)
    return [{"drafter": _read(pair.drafter, scene), "target": _read(pair.target, scene)} | blind for scene in scenes]


def majority(labels: Tensor) -> dict[str, str]:
    """The most frequent value of each slot."""
    return {
        slot: slot_values(slot)[int(column[column != NO_VALUE].bincount().argmax())]
        for slot, column in zip(SLOTS, labels.T, strict=True)
    }


def _read(model: Model, scene: Scene) -> dict[str, str]:
    """The slots that a model's answers about a scene tell."""
    questions, prompts, inputs = [QUESTIONS[number] for number in SLOT_QUESTIONS], [], None
    for question in questions:
        inputs = model.encode(scene, question, like=inputs)
        with torch.no_grad():
            prompts.append(model.see(inputs))
    reader = BatchReader(model)
    told = reader.answer(reader.prompts([prompts]), MAX_NEW_TOKENS)
    return read_slots({q: model.decode_text(a.token_ids) for q, a in zip(questions, told, strict=True)})


def gains(slots: dict[str, dict[str, float]], model: str, of: Iterable[str] = SLOTS) -> list[float]:
    """Accuracy minus blind accuracy of "drafter" or "target", slot by slot."""
    return [slots[slot][model] - slots[slot][f"{model}_blind"] for slot in of]


def write_card(card: dict[str, Any], folder: str | Path) -> None:
    """Write `card.json` and the model card `README.md`."""
    folder = Path(folder)
    write_json(folder / "card.json", card)
    with atomic_write(folder / "README.md") as partial:
        partial.write_text(render_card(card))


def slot_rows(slots: dict[str, dict[str, float]]) -> str:
    """The rows of the table of slots."""
    return "\n".join(
        f"| {slot} | {v['target']:.2f} | {v['target_blind']:.2f} | {v['drafter']:.2f} | {v['drafter_blind']:.2f} "
        f"| {v['majority']:.2f} | {v['scenes']} |"
        for slot, v in slots.items()
    )


def render_card(card: dict[str, Any]) -> str:
    """The model card as Markdown; every figure comes from `card`."""
    slots, settings = card["slots"], card["settings"]
    target_gain = gains(slots, "target")
    times = ", ".join(f"{name} {stage['seconds'] / 60:.0f} min" for name, stage in card["stages"].items())
    losses = ", ".join(
        f"{name} {stage['history'][-1]['loss']:.3f}"
        for name, stage in card["stages"].items()
        if name in ("drafter", "target")
    )
    average, weakest = 100 * sum(target_gain) / len(target_gain), 100 * min(target_gain)
    motion = 100 * min(gains(slots, "drafter", MOVING_SLOTS))
    colour = 100 * gains(slots, "drafter", ["colour"])[0]
    table = slot_rows(slots)
    return f"""# Model card: the mini pair

A small EventGPT (drafter) and a small Video-LLaVA (target) of the classes that the 7B models have, for tests, demos
and method development on a CPU. They speak about `streets`, the procedural driving scenes of this package, and about
nothing else.

- **Data:** `streets`. The drafter learns from {settings["train_sequences"]} sequences ({card["train_scenes"]} windows \
of 1 s), the target from {settings["windows"]} windows
  that are each of a street of its own, drawn without events (its language model from {settings["told_windows"]} of \
them).
  Both are tested on {settings["test_sequences"]} sequences ({card["test_scenes"]} windows). \
No street is in two of these sets. Events are simulated.
- **Made by:** `egptlib train-mini` (settings and seeds in `card.json`, torch {card["torch"]}).
- **Time on two cores:** {times}.
- **Answer loss**, mean of the last epoch, nats a token: {losses}.
- Weights are stored in bfloat16 and opened in float32.

## Do they see?

Slot accuracy on the test split: the share of windows in which the greedy answer tells the true value. *Blind* is the
same model with its input blanked (no events; black frames), a state it was trained on too \
({settings["target"]["blank_share"]:.0%} of the scenes).
*Majority* is the most frequent value of the training split. Kind, colour and direction are those of the nearest \
vehicle.

| slot | target | target blind | drafter | drafter blind | majority | windows |
| --- | --- | --- | --- | --- | --- | --- |
{table}

The target gains {average:.0f} points over its blind self on average, {weakest:.0f} on its weakest slot. The drafter
gains {motion:.0f} or more on what moves ({" and ".join(MOVING_SLOTS)}), and {colour:.0f} on colour, which events do not
carry.

{tell_heads(card["heads"], "mini") if "heads" in card else ""}## Limits

Templated English about one procedural world; no other scene, question or language. Vehicles cross where there is no
side street. The same weights come out only on the same machine and torch version: another rounds differently.
"""


def tell_heads(heads: dict[str, Any], pair: str) -> str:
    """The section on the trained adapters that come with the pair."""
    rows = "\n".join(
        f"| {row['level']} | {row['parameters']:,} | {row['mean_acceptance_length']:.2f} "
        f"| {row['gain']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] | {row['top1']:.3f} |"
        for row in heads["rows"]
    )
    learned = ";\n".join(
        f"{level} from {its['answers']:,} answers about {its['sequences']} sequences, {its['epochs']} epochs, "
        f"{its['seconds'] / 60:.0f} min"
        for level, its in heads["trained"].items()
    )
    names = ", ".join(f'`"{pair}-{level}"`' for level in heads["trained"])
    over = heads.get("e3s_over_e3")
    served = ""
    if over is not None:
        served = (
            "\nE3S has the architecture that inference servers run, and reads the prompt's rows too. On the same\n"
            f"answers it makes {over['gain']:+.2f} [{over['low']:+.2f}, {over['high']:+.2f}] tokens a pass beside E3.\n"
        )
    return f"""## Trained heads

`load_adapter` opens them by name: {names} (`heads/`, in bfloat16). They learned on the
training split, and are judged as they are stored, on {heads["test_answers"]:,} answers about \
{heads["test_sequences"]} sequences of the test split.
*Tokens a pass*: of the target, at gamma 5, along its own answers. The gain is over the drafter's own tokens, with a
95 % interval over sequences. Made by `egptlib train-mini-heads`, on a machine that others used too:
{learned}.
{served}
| drafts from | parameters | tokens a pass | gain | first token right |
| --- | --- | --- | --- | --- |
{rows}

"""
