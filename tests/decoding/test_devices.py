"""Drafter and target on one device or two: every drafter, adapter and mode gives the answers of the CPU."""

from typing import Any

import pytest
import torch

from egptlib.adapters import create_adapter
from egptlib.decoding import (
    AdapterDrafter,
    CascadeDrafter,
    Deferral,
    Fuzzy,
    HeadDrafter,
    NgramDrafter,
    Recorder,
    Sampler,
    Sampling,
    SceneSession,
    Typical,
    as_drafter,
    speculative_generate,
)
from egptlib.models import shared_vocabulary
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
@pytest.mark.parametrize("level", ["L1", "L2", "L3", "L4", "L5", "L5F", "B1", "E3"])
def test_an_adapter_follows_the_device(
    level: str, where: tuple[str, str], models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded on the CPU. An aligner sits beside the drafter, a head beside the target, whatever both read."""
    drafter, target = models
    torch.manual_seed(0)
    adapter: Any = create_adapter(level, hidden_size=32, num_heads=4, ffn_dim=64, bottleneck=16)
    kind: Any = HeadDrafter if adapter.runs_ahead else AdapterDrafter
    extra: dict[str, Any] = {"source_layers": (1, 2, 3)} if level == "E3" else {}

    def answers() -> Any:
        proposes = kind(drafter, adapter, target, shared_vocabulary(drafter, target), **extra)
        return speculative_generate(target, proposes, PROMPT, "", gamma=4, max_new_tokens=8)

    expected = answers()
    assert expected.token_ids.tolist() == plain(target, PROMPT, 8)
    move(models, where)
    with pretended_devices(monkeypatch):
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
def test_every_mode(mode: str, where: tuple[str, str], models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = MODES[mode](*models)
    move(models, where)
    with pretended_devices(monkeypatch):
        found = MODES[mode](*models)
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert [round_.accepted for round_ in found.rounds] == [round_.accepted for round_ in expected.rounds]


def test_mixing_is_refused(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA refuses it; otherwise the tests above could not fail."""
    drafter, target = models
    move(models, ("pretend:0", "pretend:1"))
    with pretended_devices(monkeypatch), pytest.raises(RuntimeError, match="expected all tensors to be on the same"):
        target.lm_head(drafter.prefill(drafter.encode(PROMPT, "")).hidden)


@pytest.mark.parametrize("end", [None, 2])
def test_a_draft_makes_the_host_wait_once(end: int | None, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens, confidences and logits of the CPU's loop; `end`: an end token in the middle of the draft."""
    drafter, target = models

    def draft() -> Any:
        proposes: Any = as_drafter(drafter, target)
        if end is not None:
            proposes.vocabulary.end_token_ids = frozenset(expected[end : end + 1])
        proposes.start(PROMPT, "", Recorder())
        WAITS.clear()
        first = proposes.propose([7], 5, Sampler())
        waits = len(WAITS)
        return first, proposes.propose([7, *first.tokens[:2], 9], 3, Sampler()).tokens, waits

    expected: list[int] = []
    expected = draft()[0].tokens if end is not None else []
    there, after, _ = draft()
    move(models, ("pretend:0", "pretend:0"))
    with pretended_devices(monkeypatch):
        found, found_after, waits = draft()
    assert (found.tokens, found_after, waits) == (there.tokens, after, 1)
    assert len(found.tokens) == (5 if end is None else expected.index(expected[end]) + 1)
    assert found.confidence == pytest.approx(there.confidence, rel=1e-6)
    torch.testing.assert_close(found.logits.held, there.logits)
