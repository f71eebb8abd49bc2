"""Training: loss terms against their formulas, resume to the same curve, every level learns, judged where unseen."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.multiprocessing.spawn import spawn

from egptlib._ahead import ahead
from egptlib._sealed import read_sealed
from egptlib.adapters import (
    LEVELS,
    VARIANTS,
    FitSettings,
    LoraSettings,
    LossSettings,
    SteppingHead,
    TokenAdapter,
    TokenAdapterSettings,
    TokenFolds,
    create_adapter,
    cross_validate_tokens,
    halves,
    judge,
    judge_baselines,
    judge_token_adapter,
    load_adapter,
    majority_guesses,
    new_run_folder,
    order_agreement,
    pad_ids,
    rank_tokens,
    register,
    score_guesses,
    split_by_sequence,
    tell_order,
    top1_gain,
    train_adapter,
    train_level,
    train_token_adapter,
)
from egptlib.adapters._batches import flat, predictions
from egptlib.adapters._table import _told
from egptlib.adapters._token_folds import IDENTITY
from egptlib.adapters._train import (
    Objective,
    StateLoss,
    _fingerprint,
    loss_terms,
    rows_per_step,
    shuffled,
    weighed,
)
from egptlib.hidden_states import Head as SavedHead
from egptlib.hidden_states import HiddenStates, HiddenStateWriter, PromptRows
from egptlib.models.midi._drafter import DrafterSettings
from egptlib.models.midi._training import MidiSettings
from egptlib.models.mini._language import LanguageSettings
from egptlib.models.mini._towers import TowerSettings
from egptlib.models.mini._training import MiniSettings
from egptlib.recorded import open_recorded

HIDDEN, VOCAB = 16, 12
SMALL: dict[str, Any] = {"bottleneck": 16, "num_heads": 2, "ffn_dim": 32, "max_positions": 32, "num_source_layers": 2}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> HiddenStates:
    """Token t + 1 follows from token t by one rule; the drafter's states are the target's, turned."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=generator))[0] * 4
    lm_head, turn = rows[:VOCAB].clone(), torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=generator))[0]
    follows = torch.randperm(VOCAB, generator=generator)
    folder = tmp_path_factory.mktemp("states")
    with HiddenStateWriter(folder, config={"prompt_rows": True}) as writer:
        for number in range(48):
            ids = [number % VOCAB]
            while len(ids) < 7 + number % 3:
                ids.append(int(follows[ids[-1]]))
            token_ids = torch.tensor(ids)
            target = lm_head[token_ids] + 0.1 * torch.randn(len(ids), HIDDEN, generator=generator)
            target_layers = torch.stack([target, -target], dim=1)
            # A prompt ends with the row of the answer's first token.
            prompt = PromptRows(token_ids[:2], target[[1, 0]], target_layers[[1, 0]])
            writer.add_prompts(str(number), {str(number % 2): prompt})
            writer.add(
                drafter_hidden=target @ turn,
                target_hidden=target,
                token_ids=token_ids,
                drafter_top1=(token_ids + (torch.arange(len(ids)) % 4 == 3)) % VOCAB,
                overlap=torch.ones(len(ids)),
                drafter_confidence=torch.ones(len(ids)),
                target_entropy=torch.zeros(len(ids)),
                target_layers=target_layers,
                metadata={"scene": str(number), "sequence": f"seq_{number // 4:02d}", "question": str(number % 2)},
            )
        writer.add_heads(target=SavedHead(lm_head, torch.ones(HIDDEN), 1e-6))
    return HiddenStates.open(folder)


def test_loss_terms_are_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, HIDDEN, generator=generator), torch.randn(5, HIDDEN, generator=generator)
    lm_head, ids = torch.randn(VOCAB, HIDDEN, generator=generator), torch.tensor([0, 3, 1, 2, 11])
    terms = loss_terms(x, y, ids, lm_head, LossSettings(token=1.0))
    q, p = (x @ lm_head.T).softmax(-1), (y @ lm_head.T).softmax(-1)
    expected = {
        "mse": ((x - y) ** 2).sum() / x.numel(),
        "cosine": sum(1 - a @ b / (a.norm() * b.norm()) for a, b in zip(x, y)) / 5,
        "token": -torch.stack([q[i, t].log() for i, t in enumerate(ids.tolist())]).mean(),
        "kl": (p * (p.log() - q.log())).sum() / 5,
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], torch.as_tensor(value), atol=1e-5, rtol=1e-5)


def test_the_gradient_that_is_written_out_is_the_one_of_the_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(StateLoss.apply, (x, y))
    mse, cosine = StateLoss.apply(x, y)
    (found,) = torch.autograd.grad(mse + 0.5 * cosine, x)
    plain = (x - y).square().mean() + 0.5 * (1 - torch.nn.functional.cosine_similarity(x, y, dim=-1)).mean()
    torch.testing.assert_close(found, torch.autograd.grad(plain, x)[0])


def test_terms_that_weigh_nothing_are_left_out_and_the_others_add_up() -> None:
    x, y, lm_head = torch.randn(5, HIDDEN), torch.randn(5, HIDDEN), torch.randn(VOCAB, HIDDEN)
    ids, weights = torch.arange(5), {"mse": 2.0, "cosine": 3.0, "token": 5.0, "kl": 7.0}
    x.requires_grad_()
    for name in weights:
        alone = LossSettings(**{other: weight * (other == name) for other, weight in weights.items()})  # type: ignore[arg-type]
        assert set(loss_terms(x, y, ids, lm_head, alone)) == {name}
    assert loss_terms(x, y, None, lm_head, LossSettings(token=1.0)).keys() == {"mse", "cosine", "kl"}
    terms = loss_terms(x, y, ids, lm_head, LossSettings(**weights))  # type: ignore[arg-type]
    summed = weighed(terms, LossSettings(**weights))  # type: ignore[arg-type]
    torch.testing.assert_close(summed["loss"], sum(weight * terms[name] for name, weight in weights.items()))
    assert summed["loss"].requires_grad and not any(summed[name].requires_grad for name in weights)
    same = loss_terms(x, x.detach(), ids, lm_head, LossSettings(), target_head=lm_head)
    other = loss_terms(x, x.detach(), ids, lm_head, LossSettings(), target_head=-lm_head)
    p, q = (-x @ lm_head.T).softmax(-1), (x @ lm_head.T).softmax(-1)
    torch.testing.assert_close(other["kl"], (p * (p.log() - q.log())).sum() / 5, rtol=1e-4, atol=1e-4)
    assert same["kl"].abs() < 1e-5 and same["mse"] == 0


def test_a_head_that_runs_ahead_is_trained_on_the_rows_that_follow_and_so_far_on_its_own(states: HiddenStates) -> None:
    """Row by row: what stands at t of depth d is held against row t + d, and a share of depth 1 against row t."""
    torch.manual_seed(0)
    adapter = create_adapter("L5", HIDDEN, **SMALL).eval()
    lm_head, batch = states.target_head.lm_head, next(states.stream(6)).padded()
    settings = LossSettings(token=1.0, same_position=0.25, depths=2)
    found = Objective(adapter, lm_head, settings)(batch)
    predicted = predictions(adapter, batch, lm_head, 2)
    expected: dict[str, torch.Tensor] = {}
    for offset, share, (_, states_ahead) in (
        (1, 0.375, predicted[0]),
        (2, 0.375, predicted[1]),
        (0, 0.25, predicted[0]),
    ):
        places = [(i, t) for i, n in enumerate(batch.mask.sum(1).tolist()) for t in range(n - offset)]
        at, then = tuple(zip(*places)), tuple(zip(*((i, t + offset) for i, t in places)))
        assert batch.token_ids is not None
        for name, term in loss_terms(
            states_ahead[at], batch.target_hidden[then], batch.token_ids[then], lm_head, settings
        ).items():
            expected[name] = expected.get(name, torch.zeros(())) + share * term
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    short = replace(batch, mask=torch.arange(batch.mask.shape[1])[None] < torch.ones(len(batch.mask), 1))
    nothing = Objective(adapter, lm_head, LossSettings(depths=2))(short)  # no row follows the first
    assert nothing.keys() == {"loss"} and nothing["loss"].item() == 0.0 and nothing["loss"].requires_grad
    assert Objective(adapter, lm_head, settings).state_dict().keys() == {f"adapter.{n}" for n in adapter.state_dict()}


@pytest.mark.parametrize("level", ["L1", "L5"])
def test_a_training_is_told_its_steps_what_it_trains_on_and_what_it_is_judged_by(
    states: HiddenStates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("egptlib.adapters._train.fit", lambda *given: told.append(given))
    adapter = create_adapter(level, HIDDEN, **SMALL)
    part, held, head = states[:31], states[40:], -states.target_head.lm_head
    train_adapter(adapter, part, tmp_path, lm_head=head, validation=held)
    train_adapter(adapter, states, tmp_path, FitSettings(batch_size=5, seed=2), LossSettings(kl=0.0))
    (objective, batches, steps, validate, save, settings, folder, description), own = told
    assert settings == FitSettings() and folder == tmp_path
    samples_told = description.pop("samples")
    assert description == {
        "adapter": adapter.settings.to_dict(), "loss": asdict(LossSettings()), "num_samples": len(part)
    }  # fmt: skip
    assert samples_told != own[7]["samples"] != _fingerprint(*split_by_sequence(states)[::-1])
    assert samples_told == _fingerprint(states[:31], states[40:]) != _fingerprint(states[1:32], states[40:])
    anew = replace(states, config=states.config | {"target_weights": "others"})
    assert samples_told != _fingerprint(anew[:31], anew[40:])
    assert objective.settings == LossSettings() and torch.equal(objective.lm_head, head)
    assert validate() == judge(adapter, held, head, gammas=(5,)).figures()
    save(tmp_path / "best", {"top1": 0.5})
    assert load_adapter(tmp_path / "best").settings == adapter.settings
    kept = split_by_sequence(states)[0]
    assert own[7]["num_samples"] == len(kept) and own[0].settings == LossSettings(kl=0.0)
    assert own[3]() == judge(adapter, split_by_sequence(states)[1], states.target_head.lm_head, (5,)).figures()
    for (_, batches, steps, *_), samples in ((told[0], part), (told[1], kept)):
        first, second, again = list(batches(1)), list(batches(2)), list(batches(1))
        assert len(first) == len(second) == steps
        assert sum(int(batch.mask.sum()) for batch in first) == int(samples.lengths.sum())
        assert all(torch.equal(a.target_hidden, b.target_hidden) for a, b in zip(first, again))
        assert any(not torch.equal(a.target_hidden, b.target_hidden) for a, b in zip(first, second))


def test_a_row_without_padding_gives_the_loss_of_a_padded_batch(states: HiddenStates) -> None:
    adapter = create_adapter("L2", HIDDEN, dropout=0.0, **SMALL)
    objective = Objective(adapter, states.target_head.lm_head, LossSettings(token=1.0))
    samples = next(states.stream(7))
    whole = flat([(sample, slice(None)) for sample in samples], adapter.inputs)
    rows, padded = objective(whole), objective(samples.padded())
    assert not samples.padded().mask.all()
    for name, term in padded.items():
        torch.testing.assert_close(rows[name], term)


def test_an_epoch_holds_every_sample_once_with_little_padding(states: HiddenStates) -> None:
    batches = list(shuffled(states, 5, seed=3))
    assert len(batches) == -(-len(states) // 5)
    scenes = [note["scene"] for batch in batches for note in batch.metadata]
    assert sorted(scenes) == sorted(note["scene"] for note in states.metadata())
    assert scenes == [note["scene"] for batch in shuffled(states, 5, 3) for note in batch.metadata]
    others = [{note["scene"] for note in batch.metadata} for batch in shuffled(states, 5, 4)]
    assert not any({note["scene"] for note in batch.metadata} in others for batch in batches)  # not the order alone
    padded = sum(int((~batch.mask).sum()) for batch in batches)
    plain = sum(int((~b.padded().mask).sum()) for b in states.stream(5, shuffle=True, seed=3))
    assert padded < plain


@pytest.mark.parametrize("batch_size", [1, 5, 48])
def test_an_epoch_of_rows_holds_every_position_once_in_steps_of_one_size(states: HiddenStates, batch_size: int) -> None:
    inputs = ("drafter_hidden",)
    batches = list(shuffled(states, batch_size, seed=3, rows_of=inputs))
    assert all(batch.mask.all() and len(batch.mask) == 1 for batch in batches)
    sizes = [batch.mask.shape[1] for batch in batches]
    assert set(sizes[:-1]) <= {rows_per_step(states, batch_size)} and 0 < sizes[-1] <= max(sizes)
    assert rows_per_step(states, batch_size) == pytest.approx(batch_size * states.lengths.float().mean(), abs=1)
    found = torch.cat([torch.cat([b.drafter_hidden[0], b.target_hidden[0]], dim=1) for b in batches])
    by_scene = {sample.metadata["scene"]: sample for sample in states}
    order = [s.metadata["scene"] for batch in states.stream(batch_size, shuffle=True, seed=3) for s in batch]
    rows = [torch.cat([by_scene[n].drafter_hidden, by_scene[n].target_hidden], dim=1) for n in order]
    assert torch.equal(found, torch.cat(rows))
    again = shuffled(states, batch_size, seed=4, rows_of=inputs)
    assert not torch.equal(
        found, torch.cat([torch.cat([b.drafter_hidden[0], b.target_hidden[0]], dim=1) for b in again])
    )


def test_batches_made_ahead_are_the_same_and_so_are_errors() -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("damaged")

    seen = []
    with pytest.raises(ValueError, match="damaged"):
        for number in ahead(numbers()):
            seen.append(number)
    assert seen == [1, 2]
    for most in (1, 2, 5):
        assert list(ahead(iter("abc"), most)) == ["a", "b", "c"]
    made = count()
    some = ahead(made, 3)
    assert [next(some), next(some)] == [0, 1]
    some.close()
    assert next(made) <= 5  # those two and three more


def test_validation_shares_no_sequence(states: HiddenStates) -> None:
    train, validation = split_by_sequence(states, 0.25)
    assert len(train) + len(validation) == len(states)
    assert (train.sequences, validation.sequences) == (states.sequences[:9], states.sequences[9:])
    assert split_by_sequence(states)[1].sequences == states.sequences[10:]  # 15 % of 12
    two = states.select(sequence=states.sequences[:2])
    assert [len(part.sequences) for share in (0.0, 1.0) for part in split_by_sequence(two, share)] == [1] * 4
    with pytest.raises(ValueError, match=f"^{states.folder}: 1 sequences; a validation split needs at least 2$"):
        split_by_sequence(states[:4])


@pytest.mark.parametrize(("name", "known"), [("L4", 0), ("L5", 0), ("L5-reads-last", 1), ("L5F", 1)])
def test_the_drafter_has_read_no_token_that_is_not_known(states: HiddenStates, name: str, known: int) -> None:
    """What stands at row t as the idea of row t, or of t + 1, depends on the drafter's rows up to t + known."""
    level, options = VARIANTS[name]
    torch.manual_seed(0)
    adapter, batch = create_adapter(level, HIDDEN, **SMALL, **options).eval(), next(states.stream(6)).padded()
    changed, t = batch.drafter_hidden.clone(), 3
    changed[:, t + known + 1 :] += 1.0
    other = replace(batch, drafter_hidden=changed)
    (before,), (after,) = (predictions(adapter, b, states.target_head.lm_head, depths=1) for b in (batch, other))
    torch.testing.assert_close(before[1][:, : t + 1], after[1][:, : t + 1])
    assert not torch.allclose(before[1][:, t + 1], after[1][:, t + 1])


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_learns_the_rule(states: HiddenStates, tmp_path: Path, level: str) -> None:
    torch.manual_seed(0)
    adapter = create_adapter(level, HIDDEN, dropout=0.0, **SMALL)
    # What a block says depends on how many it is asked for, and five are judged.
    epochs, depths = (30, 5) if level == "DF" else (15, 3)
    settings = FitSettings(epochs, batch_size=8, learning_rate=1e-2, patience=25)
    result = train_adapter(adapter, states, tmp_path / level, settings, LossSettings(depths=depths))
    assert result.best["mean_acceptance_length"] > 2.4  # 3 to 4 at best: the answers are short
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    best = load_adapter(result.folder)
    validation = split_by_sequence(states)[1]
    again = judge(best, validation, states.target_head.lm_head, gammas=(5,)).figures()
    assert again["mean_acceptance_length"] == pytest.approx(result.best["mean_acceptance_length"])


def test_training_ends_when_acceptance_grows_no_more(states: HiddenStates, tmp_path: Path) -> None:
    settings = FitSettings(epochs=9, batch_size=8, learning_rate=1e-12, patience=2)  # nothing can be learnt
    assert settings.monitor == "mean_acceptance_length"
    result = train_adapter(create_adapter("L1", HIDDEN, **SMALL), states, tmp_path, settings)
    assert len(result.history) == 3  # the first is the best, two more were waited for
    assert result.best["epoch"] == 1


def test_a_run_that_was_stopped_gives_the_same_curve(states: HiddenStates, tmp_path: Path) -> None:
    def run(folder: Path, stop_after: int | None = None) -> list[dict[str, float]]:
        torch.manual_seed(0)
        adapter = create_adapter("L5", HIDDEN, **SMALL)
        assert isinstance(adapter, SteppingHead)
        settings = FitSettings(epochs=4, batch_size=8)
        if stop_after is not None:
            calls: list[int] = []

            def count(module: torch.nn.Module, _: object) -> None:
                calls.append(1)
                if len(calls) > stop_after:
                    raise KeyboardInterrupt

            adapter.layers[0].register_forward_pre_hook(count)
        rows = train_adapter(adapter, states, folder, settings, LossSettings(depths=2)).history
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_after=45)
    assert run(tmp_path / "stopped") == whole
    assert run(tmp_path / "again") == whole
    told = r"this run was started with adapter \{'level': 'L5', .*, not \{'level': 'L1', .*; give another folder"
    with pytest.raises(ValueError, match=told):
        train_adapter(create_adapter("L1", HIDDEN, **SMALL), states, tmp_path / "whole", FitSettings(epochs=4))
    whole_again = (
        create_adapter("L5", HIDDEN, **SMALL),
        states[::-1],
        tmp_path / "whole",
        FitSettings(epochs=4, batch_size=8),
    )
    with pytest.raises(ValueError, match="this run was started with samples"):
        train_adapter(*whole_again, LossSettings(depths=2))
    assert new_run_folder(tmp_path, "L1") != new_run_folder(tmp_path, "L1")


def test_training_stays_on_its_device_whatever_the_accelerator_took(
    states: HiddenStates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for `cuda:1` while the accelerator sits on `cuda:0`, or on the CPU from an earlier training."""
    assert Accelerator(cpu=True).device.type == "cpu"
    settings = FitSettings(epochs=1, batch_size=8)
    for number, device in enumerate(("cpu", "meta")):
        state = AcceleratorState()
        monkeypatch.setattr(state, "device", torch.device(device))
        adapter: Any = create_adapter("L1", hidden_size=HIDDEN, **SMALL)
        before = adapter.state_dict()[next(iter(adapter.state_dict()))].clone()
        train_adapter(adapter, states, tmp_path / str(number), settings)
        after = adapter.state_dict()[next(iter(adapter.state_dict()))]
        assert after.device.type == "cpu" and not torch.equal(before, after)


def test_a_level_becomes_a_row(states: HiddenStates, tmp_path: Path) -> None:
    train, test = split_by_sequence(states, 0.3)
    settings = FitSettings(epochs=2, batch_size=8, learning_rate=1e-2)
    sizes = {name: value for name, value in SMALL.items() if name != "num_source_layers"}  # the samples say it
    trained = train_level("E3", train, test, tmp_path / "E3", settings, sizes=sizes)
    row = trained.row()
    again = judge(load_adapter(tmp_path / "E3"), test, states.target_head.lm_head)
    assert trained.verdict.mean_acceptance_length == again.mean_acceptance_length
    assert set(again.mean_acceptance_length) == set(range(1, 11))
    assert row["level"] == "E3" and row["parameters"] > 0 and row["ms a call"] > 0 and row["training s"] > 0
    ahead_of_it = train_level("L4-looks-ahead", train, test, tmp_path / "L4", settings, sizes=sizes)
    assert not load_adapter(ahead_of_it.fit.folder).settings.causal
    with pytest.raises(ValueError, match="level 'L9'"):
        train_level("L9", train, test, tmp_path / "L9", settings)
    with pytest.raises(ValueError, match="level L6: trains on scenes"):
        train_level("L6", train, test, tmp_path / "L6", settings)


def test_order_agreement_counts_pairs() -> None:
    rows = [{"cos_sim_mean": c, "mean_acceptance_length": m} for c, m in ((0.1, 1.0), (0.2, 3.0), (0.3, 2.0))]
    r, alike, pairs = order_agreement([*rows, {"mean_acceptance_length": 9.0}])
    assert (alike, pairs) == (2, 3)
    assert r == pytest.approx(0.5)


def test_the_sentence_about_cosine_is_that_of_the_rows() -> None:
    def row(level: str, cosine: float, length: float) -> dict[str, Any]:
        return {"level": level, "cos_sim_mean": cosine, "mean_acceptance_length": length}

    aligned = [row("L1", 0.1, 1.0), row("L2", 0.2, 2.0), row("L5", 0.3, 3.0)]
    assert tell_order(aligned).endswith("does? yes: 3 of 3 pairs stand in the same order, r = 1.00.")
    told = tell_order([*aligned, row("L6", -0.5, 2.5), {"level": "drafter's own tokens"}])
    r = torch.corrcoef(torch.tensor([[0.1, 0.2, 0.3, -0.5], [1.0, 2.0, 3.0, 2.5]]))[0, 1].item()
    assert f"the 4 levels as acceptance does? no: 4 of 6 pairs stand in the same order, r = {r:.2f}. " in told
    assert told.endswith("Without L6 (cosine -0.50), read in a space of their own: " + _told(aligned) + ".")
    assert tell_order(aligned[:1]).endswith("there is no pair to compare.")


def _one_of_two(rank: int, states: str, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    adapter = create_adapter("L1", HIDDEN, **SMALL)
    settings = FitSettings(epochs=3, batch_size=8, learning_rate=1e-2)
    result = train_adapter(adapter, HiddenStates.open(states), Path(folder), settings)
    torch.save([result.best["mean_acceptance_length"], adapter.state_dict()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_one_adapter(states: HiddenStates, tmp_path: Path) -> None:
    """Through accelerate, on gloo: both end with the same weights, and each has seen its own half of the batches."""
    spawn(_one_of_two, (str(states.folder), str(tmp_path)), nprocs=2)
    (first, ours), (second, theirs) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first == second
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert len(read_sealed(tmp_path / "history.json")["epochs"]) == 3
    torch.manual_seed(0)
    alone = create_adapter("L1", HIDDEN, **SMALL)
    train_adapter(alone, states, tmp_path / "alone", FitSettings(epochs=3, batch_size=8, learning_rate=1e-2))
    assert not torch.equal(alone.state_dict()["norm.weight"], ours["norm.weight"])


@pytest.mark.parametrize("level", ["L1", "E3"])
def test_answers_of_one_token_and_of_none_are_judged_or_told(tmp_path: Path, level: str) -> None:
    with HiddenStateWriter(tmp_path) as writer:
        for number, length in enumerate((0, 1, 3)):
            rows, ids = torch.randn(length, HIDDEN), torch.zeros(length, dtype=torch.long)
            told = {"scene": str(number), "question": "q"}
            writer.add(rows, rows, ids, ids, target_layers=rows[:, None].expand(-1, 2, -1), metadata=told)
    states, head = HiddenStates.open(tmp_path), torch.randn(VOCAB, HIDDEN)
    adapter = create_adapter(level, HIDDEN, **SMALL)
    assert len(judge(adapter, states, head).answers) == 3
    for part in (states[:1], states[:0]) + (states[:2],) * (level == "E3"):
        with pytest.raises(
            ValueError, match=f"{tmp_path}: none of {len(part)} answers is long enough to judge {level}"
        ):
            judge(adapter, part, head)
    with pytest.raises(
        ValueError, match=f"adapter {level}: made for 4096 values .* and 4096 of .*; these have 16 and 16"
    ):
        judge(create_adapter(level, **SMALL), states, head)  # the default width is that of the 7B models
    with pytest.raises(
        TypeError, match="adapter level 'OTHER': expected a class that is an Adapter, found <class 'torch"
    ):
        register("OTHER")(torch.nn.Linear)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to train on"):
        train_adapter(adapter, states[:0], tmp_path / "run", lm_head=head, validation=states)


WRONG_SETTINGS: list[tuple[Any, str, dict[str, Any]]] = [
    (FitSettings, "training", {"clip": 0, "weight_decay": math.nan, "learning_rate": math.inf, "seed": 1.5}),
    (LossSettings, "loss", {"mse": -1, "kl": math.nan, "same_position": 1.5, "depths": 0}),
    (TokenAdapterSettings, "token adapter", {"vocab_size": 0, "num_layers": -1, "max_positions": 2.5, "dropout": 1}),
    (LoraSettings, "LoRA", {"rank": 1.5, "alpha": -2, "dropout": "0.1"}),
    (
        partial(create_adapter, "E3S", HIDDEN, num_heads=2),
        "adapter",
        {"drafter_size": 0, "num_source_layers": 0, "num_kv_heads": 1.5, "draft_vocab": -1, "rope_theta": 0,
         "norm_eps": math.nan, "scale": math.inf, "source_layers": [1, 2.5, 3], "drafted": 4},
    ),
    (LanguageSettings, "training", {"epochs": 0, "batch_size": 2.5, "questions": 0, "blank_share": 2}),
    (partial(TowerSettings, (0,)), "training", {"epochs": 0, "shift": -1}),
    (MiniSettings, "training", {"windows": 0}),
    (MidiSettings, "training", {"rank": 0}),
    (DrafterSettings, "training", {"drafted": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "fields"), WRONG_SETTINGS)
def test_every_setting_that_cannot_be_is_one_error(make: Any, kind: str, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        with pytest.raises(ValueError, match=f"^{kind} setting {name}: expected "):
            make(**{name: value})


def test_settings_are_kept_as_plain_numbers_and_weigh_something() -> None:
    kept = FitSettings(epochs=np.int64(2), learning_rate=np.float32(0.5), clip=2)  # type: ignore[arg-type]
    assert [type(value) for value in (kept.epochs, kept.learning_rate, kept.clip)] == [int, float, float]
    assert create_adapter("L1", HIDDEN, scale=1).settings.scale == 1.0  # a whole number could not be learned
    with pytest.raises(ValueError, match="expected one of mse, cosine, token, kl to weigh something"):
        LossSettings(0, 0, 0, 0)
    with pytest.raises(ValueError, match="num_heads 8 does not divide hidden_size 20"):
        TokenAdapterSettings(hidden_size=20)


def test_baselines_against_plain_counting(states: HiddenStates) -> None:
    train, validation = split_by_sequence(states)
    rows = {row.name: row for row in judge_baselines(validation, train, states.target_head.lm_head)}
    hits = positions = 0
    for batch in validation.chunks():
        hits, positions = hits + int(batch.match.sum()), positions + int(batch.mask.sum())
    expected = hits / positions
    assert rows["drafter's own tokens"].top1 == pytest.approx(expected)
    assert set(rows) == {
        "drafter's own tokens",
        "identity",
        "mean state by position",
        "majority by position",
        "majority by question",
    }


def test_the_token_adapter_learns_resumes_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    drafter = [[(i + t) % 9 for t in range(6 - i % 2)] for i in range(40)]
    target = [[(token * 2 + 1) % 9 for token in row] for row in drafter]
    ids = pad_ids(drafter, 6), pad_ids(target, 6)
    small = TokenAdapterSettings(vocab_size=9, hidden_size=16, num_layers=1, num_heads=2, ffn_dim=32, max_positions=8)
    settings = FitSettings(epochs=20, batch_size=8, learning_rate=1e-2, monitor="accepted_prefix", patience=20)
    result = train_token_adapter(TokenAdapter(small), ids, ids, tmp_path, settings)
    assert result.best["top1"] > 0.99
    adapter = TokenAdapter.load(tmp_path)
    assert judge_token_adapter(adapter, *ids)["top1"] == pytest.approx(result.best["top1"])
    others = ids[0].flip(0), ids[1].flip(0)
    with pytest.raises(ValueError, match="this run was started with samples"):  # as many, but others
        train_token_adapter(TokenAdapter(small), others, ids, tmp_path, settings)
    for wrong, found in ((torch.full((1, 9), 3), "9 of up to 3"), (torch.tensor([[9, 2]]), "2 of up to 9")):
        with pytest.raises(ValueError, match=f"token adapter: expected up to 8 ids below 9, found {found}"):
            adapter(wrong)  # 9 stands for an end, and was taken for one
    silent = pad_ids([[], [1, 2]], 6)  # alone in a batch of one, the first made the loss no number
    two = FitSettings(epochs=1, batch_size=1, monitor="accepted_prefix")
    told = train_token_adapter(TokenAdapter(small), (silent, silent), ids, tmp_path / "few", two)
    assert math.isfinite(told.best["loss"])
    with pytest.raises(ValueError, match="the target says nothing"):
        train_token_adapter(TokenAdapter(small), ids, (silent[:1], silent[:1]), tmp_path / "none", two)
    assert (rank_tokens(TokenAdapter(small, vocab_size=3), silent)[..., 3:] == -1).all()
    assert TokenAdapter(small, num_layers=2).settings == replace(small, num_layers=2)
    changed = ids[0].clone()
    changed[:, 4:] = 0
    torch.testing.assert_close(adapter(changed)[:, :4], adapter(ids[0])[:, :4])


def test_the_token_adapter_has_the_size_that_is_stated() -> None:
    with torch.device("meta"):
        assert TokenAdapter().num_parameters == 45_641_216


def test_folds_judge_each_sample_by_what_did_not_see_it(tmp_path: Path) -> None:
    """Ten answers of rule A, then ten of rule B: what is learned from one half is worth nothing on the other."""
    rules = [[1, 2, 3, 4]] * 10 + [[5, 6, 7, 8]] * 10
    small = TokenAdapterSettings(vocab_size=9, hidden_size=16, num_layers=1, num_heads=2, ffn_dim=32, max_positions=8)
    training = FitSettings(epochs=8, batch_size=4, learning_rate=1e-2, monitor="accepted_prefix")
    asked = ["A"] * 10 + ["B"] * 10
    mixed = [(range(0, 20, 2), range(1, 20, 2)), (range(1, 20, 2), range(0, 20, 2))]
    apart = cross_validate_tokens(rules, rules, halves(20), tmp_path / "apart", small, training, asked)
    within = cross_validate_tokens(rules, rules, mixed, tmp_path / "mixed", small, training, asked)
    top1 = [{row["method"]: row["top1"] for row in result.rows()} for result in (apart, within)]
    assert [rates["majority by position"] for rates in top1] == [0.0, 0.5]
    assert [rates["majority by question"] for rates in top1] == [0.0, 1.0]
    assert within.gain().value == pytest.approx(top1[1]["token adapter"] - 0.5)
    assert within.gain(IDENTITY, list(range(20))).low <= within.gain(IDENTITY).value <= 0
    assert top1[0]["token adapter"] < 0.3
    assert top1[1]["token adapter"] > 0.95
    assert all(rates["drafter's own tokens (identity)"] == 1.0 for rates in top1)
    lengths = {row["method"]: row["mean_acceptance_length"] for row in within.rows(gamma=2)}
    assert lengths["drafter's own tokens (identity)"] == 3.0  # two drafts and the target's own, in one pass
    gained = within.length_gain("majority by position", list(range(20)), gamma=2)
    assert gained.value == pytest.approx(lengths["token adapter"] - lengths["majority by position"])
    again = TokenFolds.open(tmp_path / "mixed")
    assert again.rows(first=1) == within.rows(first=1)
    assert [len(history) for history in again.histories] == [len(history) for history in within.histories]
    with pytest.raises(ValueError, match="each of 20 samples to be judged once"):
        cross_validate_tokens(rules, rules, halves(20)[:1], tmp_path / "x", small, training)
    assert halves(6, sequences=list("aabbbc")) == [(range(5), range(5, 6)), (range(5, 6), range(5))]
    with pytest.raises(ValueError, match="fold of 4 samples: expected 1 to 3"):
        halves(4, sequences=list("aaaa"))
    with pytest.raises(ValueError, match="fold of 20 samples: expected 1 to 19"):
        halves(20, 20)
    with pytest.raises(FileNotFoundError, match=r"folds\.json: not found"):
        TokenFolds.open(tmp_path / "x")


def test_guesses_are_scored_by_hand() -> None:
    target = torch.tensor([[1, 2, 3], [1, 4, -1]])
    guesses = torch.tensor([[[1, 9, 9, 9, 9], [9, 9, 9, 9, 2], [3, 9, 9, 9, 9]], [[1] * 5, [4] * 5, [-1] * 5]])
    assert score_guesses(guesses, target) == {"top1": 4 / 5, "top5": 1.0, "accepted_prefix": 1.5}
    assert score_guesses(guesses[..., :1], target, first=1) == {"top1": 2 / 3, "accepted_prefix": 1.5}
    nothing = torch.full_like(guesses, 9)
    assert top1_gain(guesses, nothing, target).value == pytest.approx(4 / 5)
    assert top1_gain(nothing, guesses, target, first=1).value == pytest.approx(-2 / 3)
    assert target.tolist() == [[1, 2, 3], [1, 4, -1]]


def test_majority_matches_the_recorded_figure(shared: Path) -> None:
    """0.2500 on the recorded answers, without the first token, in the folds of the script that recomputes figures."""
    folder = shared / "recorded"
    if not folder.is_dir():
        pytest.skip(f"recorded runs not found: {folder}")
    target = pad_ids(open_recorded(folder / "test_tokens_1q.json").column("target_ids"), 50)
    guesses = torch.empty(*target.shape, 5, dtype=torch.long)
    for fitted, judged in halves(len(target), 550):
        guesses[list(judged)] = majority_guesses(target[list(fitted)], 50)
    wanted = json.loads((folder / "expected_aggregates.json").read_text())["test_tokens_1q"]
    expected = wanted["per_position_majority_predictor_on_vl[1:]_2fold_contiguous"]
    assert score_guesses(guesses, target, first=1)["top1"] == pytest.approx(expected, rel=1e-12)
    by_question = majority_guesses(target[:4], 50, list("abab"), list("ba"))
    assert by_question[:, 0, 0].tolist() == [target[1, 0], target[0, 0]]
