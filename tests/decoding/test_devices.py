"""Drafter and target on one device or two: every drafter, adapter and mode gives the answers of the CPU."""

from typing import Any

import pytest
import torch

from egptlib.adapters import create_adapter
from egptlib.decoding import (
    AdapterDrafter,
    CascadeDrafter,
    Deferral,
    Draft,
    Fuzzy,
    HeadDrafter,
    ModelDrafter,
    NgramDrafter,
    Recorder,
    Sampler,
    Sampling,
    SceneSession,
    Typical,
    WatchingDrafter,
    as_drafter,
    speculative_generate,
)
from egptlib.decoding._round import layer_states
from egptlib.models import common_vocabulary, shared_vocabulary
from tests.pretended import WAITS, pretended_devices, put

from .conftest import TextModel, make_model, plain

Models = tuple[TextModel, TextModel]
PROMPT = [4, 5, 6]
WHERE = pytest.mark.parametrize(
    "where",
    [
        pytest.param(("pretend:0",) * 2, id="one", marks=pytest.mark.slow),
        pytest.param(("pretend:0", "pretend:1"), id="two"),
    ],
)


@pytest.fixture
def models() -> Models:
    target = make_model(0, layers=3, name="target")
    return make_model(1, like=target, noise=0.2, name="drafter"), target


def move(models: Models, where: tuple[str, str]) -> None:
    for model, device in zip(models, where, strict=True):
        put(model.module, device)


@WHERE
@pytest.mark.parametrize("level", ["L1", "L2", "L3", "L4", "L5", "L5F", "B1", "E3", "DF"])
def test_an_adapter_follows_the_device(
    level: str, where: tuple[str, str], models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded on the CPU. An aligner sits beside the drafter, a head beside the target, whatever both read."""
    drafter, target = models
    torch.manual_seed(0)
    adapter: Any = create_adapter(level, hidden_size=32, num_heads=4, ffn_dim=64, bottleneck=16)
    kind: Any = HeadDrafter if adapter.runs_ahead else AdapterDrafter
    extra: dict[str, Any] = {"source_layers": (1, 2, 3)} if level in ("E3", "DF") else {}

    def answers() -> Any:
        proposes = kind(drafter, adapter, target, shared_vocabulary(drafter, target), **extra)
        return speculative_generate(target, proposes, PROMPT, "", gamma=4, max_new_tokens=8)

    expected = answers()
    assert expected.token_ids.tolist() == plain(target, PROMPT, 8)
    move(models, where)
    with pretended_devices():
        found = answers()
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert [round_.accepted for round_ in found.rounds] == [round_.accepted for round_ in expected.rounds]


MODES: dict[str, Any] = {
    "in sequence": lambda drafter, target: speculative_generate(target, drafter, PROMPT, ""),
    "sampling": lambda drafter, target: speculative_generate(
        target, drafter, PROMPT, "", sampling=Sampling(0.8, 10, 0.9), generator=torch.Generator().manual_seed(3)
    ),
    **{
        rule.name: lambda drafter, target, rule=rule: speculative_generate(target, drafter, PROMPT, "", rule=rule)
        for rule in (Typical(), Fuzzy(), Deferral())
    },
    "cascade": lambda drafter, target: speculative_generate(
        target, CascadeDrafter(drafter, NgramDrafter(), shared_vocabulary(drafter, target)), PROMPT, ""
    ),
    "by text": lambda drafter, target: speculative_generate(target, as_drafter(drafter, target, "text"), PROMPT, ""),
    "questions together": lambda drafter, target: SceneSession(target, drafter, PROMPT).ask_all(["7 8", "9"])[1],
}


@WHERE
@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode: str, where: tuple[str, str], models: Models) -> None:
    expected = MODES[mode](*models)
    move(models, where)
    with pretended_devices():
        found = MODES[mode](*models)
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert [round_.accepted for round_ in found.rounds] == [round_.accepted for round_ in expected.rounds]


def test_mixing_is_refused(models: Models) -> None:
    """As CUDA refuses it; otherwise the tests above could not fail."""
    drafter, target = models
    move(models, ("pretend:0", "pretend:1"))
    with pretended_devices(), pytest.raises(RuntimeError, match="expected all tensors to be on the same"):
        target.lm_head(drafter.prefill(drafter.encode(PROMPT, "")).hidden)


def make_adapter(level: str) -> Any:
    torch.manual_seed(0)
    return create_adapter(level, hidden_size=32, num_heads=4, ffn_dim=64, bottleneck=16)


def aligned(level: str) -> Any:
    return lambda drafter, target: AdapterDrafter(
        drafter, make_adapter(level), target, shared_vocabulary(drafter, target)
    )


def ahead(level: str) -> Any:
    layers: Any = {"source_layers": (1, 2, 3)} if level in ("E3", "E3S", "DF") else {}
    return lambda drafter, target: HeadDrafter(
        drafter, make_adapter(level), target, shared_vocabulary(drafter, target), **layers
    )


DRAFTERS: dict[str, Any] = {
    "model": as_drafter,
    "two vocabularies": lambda drafter, target: ModelDrafter(drafter, common_vocabulary(drafter, target)),
    **{level: aligned(level) for level in ("L1", "L2", "L3", "L4")},
    **{level: ahead(level) for level in ("L5", "L5F", "B1", "E3", "E3S", "DF")},
}


def draft(models: Models, make: Any, sampling: Any = None, stop: Any = None) -> tuple[Draft, list[int], int]:
    """A draft of five tokens behind the target's first one, the tokens of one of three after it, and how often the host
    waited for the first of the two."""
    drafter, target = models
    proposes: Any = make(drafter, target)
    state = target.prefill(target.encode(PROMPT, ""), getattr(proposes, "source_layers", ()))
    proposes.start(PROMPT, "", Recorder())
    if isinstance(proposes, WatchingDrafter):
        proposes.watch(state.hidden[0, -1:], layer_states(state)[-1:])
    sampler = Sampler(sampling, torch.Generator().manual_seed(5))
    first = [int(state.logits[0].argmax())]
    WAITS.clear()
    found = proposes.propose(first, 5, sampler, stop)
    waits = len(WAITS)
    after = [*first, *found.tokens[:2], 9]
    if isinstance(proposes, WatchingDrafter):  # as if the target had kept two
        proposes.watch(*(torch.cat([rows] * 3) for rows in (state.hidden[0, -1:], layer_states(state)[-1:])))
    return found, proposes.propose(after, 3, sampler).tokens, waits


@pytest.mark.parametrize(
    ("kind", "how"),
    [*((kind, "greedily") for kind in DRAFTERS)]
    + [(kind, how) for kind in ("model", "L5F", "E3", "DF") for how in ("drawn", "asked")],
)
def test_the_host_waits_once_a_draft(kind: str, how: str, models: Models) -> None:
    """With the tokens, confidences and states of the CPU; who asks after each token makes it wait for each.

    DF names all tokens before it is asked.
    """
    options: dict[str, Any] = {"sampling": Sampling(0.8, 10, 0.9)} if how == "drawn" else {}
    options |= {"stop": lambda sure: False} if how == "asked" else {}
    there, after, waits = draft(models, DRAFTERS[kind], **options)
    assert (len(there.tokens), len(after), waits) == (5, 3, 0)
    move(models, ("pretend:0", "pretend:1"))
    with pretended_devices():
        found, next_found, waits = draft(models, DRAFTERS[kind], **options)
    assert (found.tokens, next_found, waits) == (there.tokens, after, 5 if how == "asked" and kind != "DF" else 1)
    assert found.confidence == pytest.approx(there.confidence, rel=1e-5)
    for name in ("logits", "hidden", "probabilities"):
        ours, theirs = (getattr(each, name) for each in (found, there))
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(ours.held, theirs)


def test_a_cascade_waits_for_each_verdict(models: Models) -> None:
    """What its inner drafter is asked for depends on it; and once more when the draft is whole."""
    drafter, target = models

    def draft() -> tuple[Draft, int, int]:
        proposes = CascadeDrafter(drafter, NgramDrafter(), shared_vocabulary(drafter, target))
        proposes.start([*PROMPT, *PROMPT], "", Recorder())
        WAITS.clear()
        return proposes.propose([7], 6, Sampler()), len(WAITS), len(proposes.accepted)

    there, _, _ = draft()
    move(models, ("pretend:0", "pretend:0"))
    with pretended_devices():
        found, waits, verdicts = draft()
    assert (found.tokens, waits) == (there.tokens, verdicts + 1)
    assert found.confidence == pytest.approx(there.confidence, rel=1e-5)


def test_a_draft_ends_with_an_end_token(models: Models) -> None:
    """What was drafted behind it before the host knew is left out, and forgotten by the drafter."""
    drafter, target = models

    def draft(ends: list[int]) -> list[list[int]]:
        proposes: Any = as_drafter(drafter, target)
        proposes.vocabulary.end_token_ids = frozenset(ends)
        proposes.start(PROMPT, "", Recorder())
        first = proposes.propose([7], 5, Sampler()).tokens
        return [first, proposes.propose([7, *first[:2], 9], 3, Sampler()).tokens]

    end = draft([])[0][2:3]
    there = draft(end)
    assert len(there[0]) == 3
    move(models, ("pretend:0", "pretend:0"))
    with pretended_devices():
        assert draft(end) == there
