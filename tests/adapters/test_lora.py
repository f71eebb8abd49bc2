"""L6: its size, its zero start, merging, what the lean pass sees, training on scenes of noise, files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from egptlib.adapters import (
    DrafterLora,
    FitSettings,
    LoraSettings,
    count_lora_parameters,
    judge_baselines,
    judge_lora,
    load_lora,
    save_lora,
    split_by_sequence,
    train_lora,
)
from egptlib.adapters._lora_train import AnswerReader
from egptlib.hidden_states import HiddenStates, extract
from egptlib.models import Pair, load_pair
from egptlib.models._lean import KeyValues
from egptlib.scenes import Scene


def make_scene(number: int) -> Scene:
    generator = np.random.default_rng(number)
    return Scene(
        id=f"seq_{number // 2}/{number:06d}",
        sequence=f"seq_{number // 2}",
        event_images=[generator.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(5)],
        frames=generator.integers(0, 256, (8, 40, 60, 3), dtype=np.uint8),
        questions=("What is moving?", "How many cars are there?"),
        answers=("a car", "two"),
        rendering="last",
        frame_sampling="even",
        frame_indices=tuple(range(8)),
        metadata={"events": "simulated", "load_seconds": 0.0},
    )


SCENES = {scene.id: scene for scene in map(make_scene, range(6))}
FIRST = SCENES["seq_0/000000"]


@pytest.fixture
def pair() -> Pair:
    """Afresh for each test: merging changes the drafter."""
    return load_pair("mini")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> HiddenStates:
    folder = tmp_path_factory.mktemp("stored")
    extract(load_pair("mini"), list(SCENES.values()), folder, max_new_tokens=30)
    return HiddenStates.open(folder)


def last_states(pair: Pair) -> Tensor:
    """The drafter's last states [4, H]: of a prompt's end, and of three tokens read after it."""
    state = pair.drafter.prefill(pair.drafter.encode(FIRST, FIRST.questions[0]))
    first = state.hidden[:, -1]
    return torch.cat([first, pair.drafter.step(torch.tensor([[5, 6, 7]]), state).hidden[0]])


def disturbed(lora: DrafterLora) -> DrafterLora:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora.updates().values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return lora


def test_16_8_million_parameters_at_7b(pair: Pair) -> None:
    assert count_lora_parameters() == 32 * 4 * 2 * 16 * 4096 == 16_777_216
    settings = LoraSettings(rank=3)
    assert count_lora_parameters(pair.drafter.module.config, settings) == DrafterLora(pair, settings).num_parameters


@pytest.mark.parametrize("head", ["target", "own"])
def test_starts_as_the_drafter_and_can_be_taken_off(pair: Pair, head: str) -> None:
    before = last_states(pair)
    weights = {name: value.clone() for name, value in pair.drafter.module.state_dict().items()}
    lora = DrafterLora(pair, LoraSettings(head=head))  # type: ignore[arg-type]
    torch.testing.assert_close(last_states(pair), before, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="already"):
        DrafterLora(pair)
    disturbed(lora)
    assert (last_states(pair) - before).abs().max() > 1e-2
    after = lora.detach().module.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[name], weights[name]) for name in weights)


@pytest.mark.parametrize("head", ["target", "own"])
def test_merged_equals_unmerged_and_is_what_the_lean_pass_reads(pair: Pair, head: str) -> None:
    untouched = last_states(pair)  # the lean pass packs the weights as they are now
    lora = disturbed(DrafterLora(pair, LoraSettings(head=head)))  # type: ignore[arg-type]
    own = pair.drafter.lm_head.weight
    state = pair.drafter.prefill(pair.drafter.encode(FIRST, FIRST.questions[0]))
    assert not isinstance(state.cache, KeyValues)
    unmerged = last_states(pair)
    drafter = lora.merge()
    state = drafter.prefill(drafter.encode(FIRST, FIRST.questions[0]))
    assert isinstance(state.cache, KeyValues)
    torch.testing.assert_close(last_states(pair), unmerged, atol=1e-5, rtol=1e-5)
    assert (unmerged - untouched).abs().max() > 1e-2
    expected = pair.target.lm_head.weight[: len(pair.vocabulary)] if head == "target" else own
    assert torch.equal(drafter.lm_head.weight, expected)
    torch.testing.assert_close(state.logits, unmerged[:1] @ expected.T, atol=1e-4, rtol=1e-5)
    assert not any("lora" in name for name in drafter.module.state_dict())


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_quantized_weights_take_no_updates(pair: Pair, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their packed bytes have another shape, which peft adds to all the same."""
    lora = DrafterLora(pair)
    monkeypatch.setattr(type(pair.drafter), "precision", precision)
    with pytest.raises(ValueError, match="not merged into them; open the pair in bfloat16"):
        lora.merge()


def test_merging_at_once_renews_the_lean_pass(pair: Pair) -> None:
    """Nothing is read between attaching and merging, so only the weights' versions can tell."""
    before = last_states(pair)
    disturbed(DrafterLora(pair, LoraSettings(head="own"))).merge()
    seen = last_states(pair)
    inputs = pair.drafter.encode(FIRST, FIRST.questions[0])
    expected, _ = pair.drafter.forward_answer(inputs, [5, 6, 7, 8])  # transformers' own pass
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)
    assert (seen - before).abs().max() > 1e-2


def test_what_is_read_of_the_store_is_what_the_drafter_says(pair: Pair, stored: HiddenStates) -> None:
    """Fresh updates change nothing, so the states are the stored ones; with updates, those of one answer alone."""
    reader = AnswerReader(DrafterLora(pair), SCENES).eval()
    (batch,) = stored[:5].chunks()
    assert not batch.mask.all()
    with torch.no_grad():
        torch.testing.assert_close(reader(batch), batch.drafter_hidden, atol=1e-4, rtol=1e-4)
        disturbed(reader.lora)
        states = reader(batch)
    assert batch.token_ids is not None
    for hidden, ids, valid, note in zip(states, batch.token_ids, batch.mask, batch.metadata, strict=True):
        inputs = pair.drafter.encode(SCENES[note["scene"]], note["question"])
        expected, _ = pair.drafter.forward_answer(inputs, ids[valid])
        torch.testing.assert_close(hidden[valid], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="scene 'seq_0/000000': not among the 0 scenes"):
        AnswerReader(reader.lora, {})(batch)


def test_a_fresh_one_is_judged_as_the_drafters_own_tokens(pair: Pair, stored: HiddenStates) -> None:
    with torch.no_grad():
        row = judge_lora(DrafterLora(pair, LoraSettings(head="own")), SCENES, stored)
    own = judge_baselines(stored, stored, stored.target_head.lm_head)[0]
    assert row.top1 == pytest.approx(own.top1)
    assert row.mean_acceptance_length == pytest.approx(own.mean_acceptance_length)


@pytest.mark.parametrize("head", ["target", "own"])
def test_training_lowers_the_loss_and_only_the_updates_move(
    pair: Pair, stored: HiddenStates, tmp_path: Path, head: str
) -> None:
    torch.manual_seed(0)
    lora = DrafterLora(pair, LoraSettings(head=head))  # type: ignore[arg-type]
    frozen = {name: value.clone() for name, value in pair.drafter.module.state_dict().items() if "lora" not in name}
    settings = FitSettings(epochs=4, batch_size=4, learning_rate=3e-3)
    result = train_lora(lora, SCENES, stored, tmp_path, settings)
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert {"token", "kl", "top1", "mean_acceptance_length"} <= result.history[0].keys()
    now = pair.drafter.module.state_dict()
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    held = split_by_sequence(stored)[1]
    assert held.sequences == ["seq_2"]
    figures = judge_lora(lora, SCENES, held, gammas=(5,)).figures()
    assert figures == {name: pytest.approx(result.best[name]) for name in figures}
    here = last_states(pair)
    again = load_pair("mini")
    load_lora(tmp_path, again)
    assert torch.equal(last_states(again), here)


def test_saved_and_loaded_is_the_same(pair: Pair, tmp_path: Path) -> None:
    settings = LoraSettings(rank=4, alpha=8, head="own")
    lora = disturbed(DrafterLora(pair, settings))
    save_lora(lora, tmp_path, epoch=3)
    count = lora.num_parameters
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.json", "adapter.safetensors"]
    here = last_states(pair)
    lora.detach()
    again = load_lora(tmp_path, pair)
    assert again.settings == settings and again.num_parameters == count > 0
    assert torch.equal(last_states(pair), here)


def test_unfit_files_are_named(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="L6"):
        load_lora(tmp_path, pair)
    save_lora(DrafterLora(pair, LoraSettings(rank=4)), tmp_path)
    other = load_pair("mini")
    content = json.loads((tmp_path / "adapter.json").read_text())
    del content["checksum"]  # changed by hand
    text = json.dumps(content)
    (tmp_path / "adapter.json").write_text(text.replace('"rank": 4', '"rank": 5'))
    with pytest.raises(ValueError, match=r"lora_A.*\[4, 256\]; expected \[5, 256\]"):
        load_lora(tmp_path, other)
    assert not any("lora" in name for name in other.drafter.module.state_dict())
    (tmp_path / "adapter.json").write_text(text.replace('"L6"', '"L1"'))
    with pytest.raises(ValueError, match="expected 'L6'"):
        load_lora(tmp_path, other)
    with pytest.raises(ValueError, match="head"):
        LoraSettings(head="none")  # type: ignore[arg-type]
