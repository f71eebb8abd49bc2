"""Many questions about one scene: pictures are seen once, and what the prompts have in common is read once."""

from __future__ import annotations

from typing import Any

import torch

from egptlib.decoding._drafters import Drafter, KeepingDrafter
from egptlib.decoding._generation import Generation
from egptlib.decoding._lengths import DraftLength
from egptlib.decoding._loop import as_drafter, speculative_generate
from egptlib.decoding._prefill_hiding import ConcurrentDrafter, hidden_prefill_generate
from egptlib.decoding._prompts import PromptReader
from egptlib.decoding._rules import Rule
from egptlib.decoding._sampling import Sampling
from egptlib.models import Model


class SceneSession:
    """Answers questions about one scene; the answers are those of `speculative_generate`.

        session = SceneSession(pair.target, pair.drafter, scene)
        session.ask("What is this scene about?").text

    Both models preprocess and see the pictures at the first question, and roll their caches back to the common
    beginning of the prompts before every further one. A drafter that works beside its caller (`DrafterProcess`,
    `DrafterThread`) reads and drafts while the target reads (see `hidden_prefill_generate`); one that is no
    `KeepingDrafter` reads every prompt whole.

    Args:
        target: the model whose answers they are.
        drafter: as in `speculative_generate`. It may serve several sessions, which then read anew when they take turns.
        scene: from `open_scenes`.

    Raises:
        ValueError: a drafter over another vocabulary.
    """

    def __init__(self, target: Model, drafter: Drafter | Model, scene: Any):
        self.target, self.drafter, self.scene = target, as_drafter(drafter, target), scene
        self._reader = PromptReader(target, scene, "target")

    def ask(
        self,
        question: str,
        *,
        gamma: int | DraftLength = 5,
        max_new_tokens: int = 50,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        rule: Rule | None = None,
    ) -> Generation:
        """Answer a question; arguments and errors as in `speculative_generate`."""
        if isinstance(self.drafter, KeepingDrafter):
            self.drafter.keep(self.scene)
        generate: Any = hidden_prefill_generate if isinstance(self.drafter, ConcurrentDrafter) else speculative_generate
        return generate(
            self.target,
            self.drafter,
            self.scene,
            question,
            gamma=gamma,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            generator=generator,
            rule=rule,
            reader=self._reader,
        )
