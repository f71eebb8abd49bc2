"""Many questions about one scene: pictures are seen once, and what the prompts have in common is read once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Unpack

from egptlib._whole import several
from egptlib.decoding._drafters import ConcurrentDrafter, Drafter, KeepingDrafter
from egptlib.decoding._generation import Generation
from egptlib.decoding._loop import as_drafter, speculative_generate
from egptlib.decoding._prefill_hiding import hidden_prefill_generate
from egptlib.decoding._prompts import MoreThanEmbeddingsError, PromptReader
from egptlib.decoding._round import Options, Settings
from egptlib.decoding._together import Asked, answer_together, drafts_together, same_drafter
from egptlib.decoding._trees import TreeShape
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

    def ask(self, question: str, **options: Unpack[Options]) -> Generation:
        """Answer a question; options and errors as in `speculative_generate`."""
        if isinstance(self.drafter, KeepingDrafter):
            self.drafter.keep(self.scene)
        generate: Any = hidden_prefill_generate if isinstance(self.drafter, ConcurrentDrafter) else speculative_generate
        return generate(self.target, self.drafter, self.scene, question, reader=self._reader, **options)

    def ask_all(self, questions: Sequence[str], **options: Unpack[Options]) -> list[Generation]:
        """Answer questions together: see `ask_together`."""
        return ask_together([(self, questions)], **options)[0]


def ask_together(
    asked: Sequence[tuple[SceneSession, Sequence[str]]], **options: Unpack[Options]
) -> list[list[Generation]]:
    """Answer questions about one or several scenes in one batch.

    Rows share their scene's beginning, which is stored once; each has its own draft and its own number of accepted
    tokens, and leaves when it ends. No answer depends on the others: greedy ones equal `ask`'s up to ties within
    rounding, drawn ones come from a generator of their own, seeded by `generator` in the order of the questions.

    Together are drafted for: a model (EventGPT), n-grams, fixed sequences, and heads. With another drafter, with trees,
    and where a model is no Llama or its prompts carry more than embeddings, the questions are answered one after the
    other.

    Args:
        asked: sessions with one target and one drafter, and what is asked about each scene.
        options: as in `speculative_generate`.

    Returns:
        The answers by session, in the order of their questions. `events` are those of the whole batch.

    Raises:
        ValueError: sessions of several targets or drafters, one text in place of several, or a limit below 1.
    """
    asked = [(session, several(questions, "questions")) for session, questions in asked]
    if not asked:
        return []
    first = asked[0][0]
    if any(each.target is not first.target or not same_drafter(each.drafter, first.drafter) for each, _ in asked):
        raise ValueError("ask_together: expected sessions with one target and one drafter")
    settings = Settings(**options)

    def one_by_one() -> list[list[Generation]]:
        return [[session.ask(question, **options) for question in questions] for session, questions in asked]

    if isinstance(settings.length, TreeShape) or not drafts_together(first.drafter, first.target):
        return one_by_one()
    starts = list(accumulate((len(questions) for _, questions in asked), initial=0))
    rows = [range(*ends) for ends in pairwise(starts)]
    batch = [
        Asked(each._reader, each.drafter, questions, own)
        for (each, questions), own in zip(asked, rows, strict=True)
        if own
    ]
    try:
        answers = answer_together(first.target, first.drafter, batch, settings) if batch else []
    except MoreThanEmbeddingsError:  # known once they are encoded; pictures that were seen are kept
        return one_by_one()
    return [answers[own.start : own.stop] for own in rows]
