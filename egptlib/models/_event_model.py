"""EventGPT behind the common interface: event images in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from egptlib.models._checkpoint import checkpoint_folder, load_tokenizer
from egptlib.models._eventgpt import EventGPT, find_tower
from egptlib.models._interface import Model
from egptlib.models._preprocess import Preprocessor
from egptlib.models._prompts import add_event_tokens, eventgpt_prompt, tokenize_eventgpt
from egptlib.models._state import Inputs


class EventModel(Model):
    """EventGPT with its tokenizer and its tower's preprocessing."""

    module: EventGPT

    def __init__(self, module: EventGPT, tokenizer: Any, preprocessor: Preprocessor, name: str = "EventGPT"):
        add_event_tokens(tokenizer, module.config)
        super().__init__(name, module, tokenizer, preprocessor, module.model)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, visual_tower: str | Path | None = None, name: str = "EventGPT", **kwargs: Any
    ) -> EventModel:
        """Open a checkpoint folder; arguments as in `EventGPT.from_pretrained`.

        The preprocessing is the tower's `preprocessor_config.json` (in the tower's folder, else the checkpoint's), and
        CLIP's own at the tower's picture size where there is none.
        """
        folder = checkpoint_folder(folder)
        module = EventGPT.from_pretrained(folder, visual_tower, **kwargs)
        places = [folder / "visual_tower", folder]
        if visual_tower is not None and (tower := find_tower(folder, visual_tower)) is not None:
            places.insert(0, tower)
        preprocessor = Preprocessor.find(places, module.config.vision_config.image_size)
        return cls(module, load_tokenizer(folder), preprocessor, name)

    def encode(self, scene: Any, question: str, like: Inputs | None = None) -> Inputs:
        if like is None:
            return self.encode_images(scene.event_images, question)
        return Inputs(self._ids(question), like.pixel_values, like.visual)

    def encode_images(self, images: Sequence[np.ndarray], question: str) -> Inputs:
        """From event images, uint8 [H, W, 3] each."""
        return Inputs(self._ids(question), self.preprocessor(images))

    def encode_stream(
        self,
        events: Mapping[str, np.ndarray],
        question: str,
        num_images: int = 5,
        max_duration_ms: float | None = None,
    ) -> Inputs:
        """From an event stream, in any order, cut by event count into `num_images` images.

        The published code refuses streams of 100 ms or longer, since the model was trained on shorter ones. Here the
        caller decides: `max_duration_ms=100` gives that check, None (the default) takes any length.

        Raises:
            ValueError: the stream lasts `max_duration_ms` or longer, or is none.
        """
        from egptlib.scenes import event_images
        from egptlib.scenes.events import check_events

        stream = check_events(events, "events").in_order()
        if max_duration_ms is not None and len(stream["t"]):
            duration = (int(stream["t"][-1]) - int(stream["t"][0])) / 1000
            if duration >= max_duration_ms:
                raise ValueError(f"events: expected less than {max_duration_ms} ms, found {duration:.1f} ms")
        return self.encode_images(event_images(stream, n=num_images), question)

    def embed(self, inputs: Inputs) -> Tensor:
        if inputs.visual is None:
            inputs.visual = self.module.encode_events(inputs.pixel_values)
        return self.module.embed(inputs.input_ids.to(self.device), event_tokens=inputs.visual)

    def _ids(self, question: str) -> Tensor:
        return tokenize_eventgpt(self.tokenizer, eventgpt_prompt(question))
