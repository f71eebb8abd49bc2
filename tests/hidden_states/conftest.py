"""A pair of the real classes with random weights, and scenes made of noise: extraction without trained models."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import VideoLlavaForConditionalGeneration

from egptlib.models import EventGPT, Pair, load_pair
from egptlib.models.mini import _sizes as mini
from egptlib.scenes import Scene


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The mini pair's architecture, untrained; both models write until the limit or an end token."""
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(7)
    drafter: Any = EventGPT(mini.drafter_config())
    target: Any = VideoLlavaForConditionalGeneration(mini.target_config())
    with torch.no_grad():  # noise that depends on what is read, not one token for ever
        for model in (drafter, target):
            model.get_input_embeddings().weight.normal_(std=1.0)
            model.get_output_embeddings().weight.normal_(std=0.3)
        # never its own specials (the drafter does not have them)
        target.get_output_embeddings().weight[mini.VOCAB_SIZE :] = 0
    tokenizer = mini.train_tokenizer(["What is moving? A red car goes left. ASSISTANT: USER: two people"] * 3)
    for name, model in (("drafter", drafter), ("target", target)):
        model.save_pretrained(folder / name)
        mini.wrap_tokenizer(tokenizer, for_target=name == "target").save_pretrained(folder / name)
    return load_pair("mini", drafter=folder / "drafter", target=folder / "target")


def make_scene(number: int, num_questions: int = 2) -> Scene:
    random = np.random.default_rng(number)
    questions = tuple(f"{word} is moving?" for word in ("What", "Who", "How fast")[:num_questions])
    return Scene(
        id=f"seq_{number // 2}/{number:06d}",
        sequence=f"seq_{number // 2}",
        event_images=[random.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(mini.EVENT_VIEWS)],
        frames=random.integers(0, 256, (mini.NUM_FRAMES, 40, 60, 3), dtype=np.uint8),
        questions=questions,
        answers=tuple(f"answer {i}" for i in range(num_questions)),
        rendering="last",
        frame_sampling="even",
        frame_indices=tuple(range(mini.NUM_FRAMES)),
        metadata={"events": "simulated", "load_seconds": 0.0},
    )
