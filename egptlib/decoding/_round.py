"""One round of speculation: a target pass over a draft, what is kept of it, and where that leaves the answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import Tensor

from egptlib._clock import Event, Recorder
from egptlib._whole import whole
from egptlib.decoding._drafters import Draft, PromptDrafter, WatchingDrafter
from egptlib.decoding._generation import Generation, Round
from egptlib.decoding._lengths import DraftLength, FixedLength
from egptlib.decoding._rules import Lossless, Rule, Verdict
from egptlib.decoding._sampling import Sampler, Sampling
from egptlib.models import Model, State


class Options(TypedDict, total=False):
    """Given by name; what is left out is as in `speculative_generate`, which explains them."""

    gamma: int | DraftLength
    max_new_tokens: int
    sampling: Sampling | None
    generator: torch.Generator | None
    rule: Rule | None


class Settings:
    """`Options`, checked and filled up."""

    def __init__(
        self,
        gamma: int | DraftLength = 5,
        max_new_tokens: int = 50,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        rule: Rule | None = None,
    ):
        self.max_new_tokens = whole(max_new_tokens, "max_new_tokens", 1)
        self.length: DraftLength = gamma if isinstance(gamma, DraftLength) else FixedLength(gamma)
        self.sampler, self.rule = Sampler(sampling, generator), rule or Lossless()


class OpenAnswer:
    """An answer that grows by one target pass after another, whoever drafts for it.

    Args:
        state: the target's, straight after its prefill; with the layers that a `WatchingDrafter` asks for.
        drafter: handed the target's states, if it watches them.

    Attributes:
        tokens: what is certain. The target has read all but the last one, which opens its next pass.
        rounds: one for each pass.
    """

    def __init__(self, target: Model, state: State, settings: Settings, recorder: Recorder, drafter: object = None):
        self.target, self.state, self.settings, self.recorder = target, state, settings, recorder
        self.tokens, self.rounds = list[int](), list[Round]()
        self._prompt_length = state.length
        self._watch = drafter.watch if isinstance(drafter, WatchingDrafter) else None
        if isinstance(drafter, PromptDrafter) and drafter.reads_prompt:
            if state.prompt_ids is None or len(state.prompt_ids) != state.length:
                raise ValueError(
                    f"{target.name}: its states along the whole prompt, which the drafter reads, are not kept"
                )
            drafter.watch_prompt(state.prompt_ids, layer_states(state))

    @property
    def room(self) -> int:
        """Draft tokens that the next pass can keep: its bonus token needs a place too."""
        return self.settings.max_new_tokens - len(self.tokens) - 1

    @property
    def ended(self) -> bool:
        return self.room < 0 or (bool(self.tokens) and self.tokens[-1] in self.target.eos_token_ids)

    def begin(self) -> None:
        """Take the first token as the prefill has said it, without a pass."""
        self.tokens.append(self.settings.sampler.choose(self.state.logits[0]))
        if self._watch is not None:
            self._watch(self.state.hidden[0, -1:], layer_states(self.state)[-1:])

    def judge(self, draft: Draft) -> Round:
        """Let the target read a draft, keep what the rule accepts and forget the rest.

        Before the first token the draft was `free`, and the prefill's own logits judge its first token.
        """
        target, state = self.target, self.state
        with self.recorder("target", "verify" if draft.tokens else "step", target.device) as info:
            if not self.tokens:
                info["free"] = len(draft.tokens)
            verdict, hidden, layers = verify(
                target, state, self.tokens[-1:], draft, self.settings.rule, self.settings.sampler
            )
            gained, accepted = keep(verdict, draft, target.eos_token_ids)
            gained = gained[: self.room + 1]  # somebody's tree may be deeper than asked for
            accepted = min(accepted, len(gained))
            self.tokens += gained
            if state.length > self._prompt_length + len(self.tokens) - 1:
                target.rollback(state, self._prompt_length + len(self.tokens) - 1)
            if self._watch is not None:
                self._watch(hidden[: len(gained)], layers[: len(gained)])
            info.update(drafted=len(draft.tokens), accepted=accepted)
        self.rounds.append(Round(len(draft.tokens), accepted, len(gained)))
        return self.rounds[-1]

    def close(self, beside: Iterable[Event] = ()) -> Generation:
        """The answer as it stands, with what was done `beside` the target among its events."""
        self.recorder.events += beside
        self.recorder.events.sort(key=lambda event: event.end)
        text, lossless = self.target.decode_text(self.tokens), self.settings.rule.lossless
        return Generation(torch.tensor(self.tokens), text, self.rounds, self.recorder.events, lossless)


def verify(
    target: Model, state: State, unread: list[int], draft: Draft, rule: Rule, sampler: Sampler
) -> tuple[Verdict, Tensor, Tensor]:
    """One target pass over the token not yet read and the draft.

    Args:
        unread: the last token of the answer, or nothing straight after the prefill, whose own logits then judge the
            first draft token.

    Returns:
        The rule's verdict, the last states [n + 1, H], and those after the layers asked for [n + 1, layers, H]. Of a
        tree, whose other nodes are forgotten, those of the path that is kept.
    """
    if draft.tokens and not 0 <= min(draft.tokens) <= max(draft.tokens) < target.vocab_size:
        raise ValueError(f"draft: expected ids of {target.name}, 0 to {target.vocab_size - 1}, found {draft.tokens}")
    before = None if unread else (state.logits, state.hidden[0, -1:], layer_states(state)[-1:])
    parents = None
    if draft.parents is not None:  # the unread token is the root
        parents = [-1] * len(unread) + [parent + len(unread) for parent in draft.parents]
    step = target.step(torch.tensor([unread + draft.tokens], device=target.device), state, parents)
    logits, hidden, layers = step.logits[0], step.hidden[0], layer_states(state)
    if before is not None:
        logits, hidden, layers = (torch.cat(rows) for rows in zip(before, (logits, hidden, layers), strict=True))
    verdict = rule(draft, logits, hidden, sampler)
    if verdict.path is not None:
        target.settle(state, [*range(len(unread)), *(len(unread) + node for node in verdict.path)])
        rows = [0, *(node + 1 for node in verdict.path)]
        hidden, layers = hidden[rows], layers[rows] if len(layers) else layers
    return verdict, hidden, layers


def layer_states(state: State) -> Tensor:
    """States [n, layers, H] of the n positions read last, after the layers asked for; empty where none was."""
    return torch.stack(list(state.layers.values()), dim=1) if state.layers else torch.empty(0)


def keep(verdict: Verdict, draft: Draft, end_token_ids: frozenset[int]) -> tuple[list[int], int]:
    """The tokens gained, up to the first end token, and how many of them are draft tokens."""
    kept = range(verdict.accepted) if verdict.path is None else verdict.path
    gained = [*(draft.tokens[node] for node in kept), verdict.token]
    for i, token in enumerate(gained):
        if token in end_token_ids:
            gained = gained[: i + 1]
            break
    return gained, min(verdict.accepted, len(gained))
