"""The trained adapters that come with the mini pair: what makes them, and those that are shipped."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from egptlib._sealed import read_sealed
from egptlib.adapters import MINI_HEADS, ServedHead, _mini_heads, judge, load_adapter, train_mini_heads
from egptlib.adapters._batches import predictions
from egptlib.hidden_states import Head, HiddenStates, HiddenStateWriter, PromptRows
from egptlib.models import MINI_FOLDER, fingerprint, load_pair
from egptlib.models.midi._drafter import DrafterSettings
from egptlib.models.midi._training import MidiSettings
from egptlib.scenes import SLOTS

HIDDEN, VOCAB = 16, 12


def made(folder: Path, sequences: list[str], pair: str = "mini") -> HiddenStates:
    """Samples as the mini pair's extraction leaves them: token t + 1 follows from token t."""
    generator = torch.Generator().manual_seed(0)
    lm_head = 4 * torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=generator))[0][:VOCAB]
    told = {
        "pair": pair,
        "layers": {"target": [2, 5]},
        "prompt_rows": True,
        "drafter_weights": "d",
        "target_weights": "t",
    }
    with HiddenStateWriter(folder, config=told) as writer:
        for number, sequence in enumerate(sequences):
            ids = (torch.arange(8) + number) % VOCAB
            rows = lm_head[ids] + 0.1 * torch.randn(8, HIDDEN, generator=generator)
            layers = torch.stack([rows, -rows], dim=1)
            writer.add_prompts(str(number), {"q": PromptRows(ids[:3], rows[:3], layers[:3])})
            writer.add(
                drafter_hidden=rows,
                target_hidden=rows,
                token_ids=ids,
                drafter_top1=ids,
                overlap=torch.ones(8),
                drafter_confidence=torch.ones(8),
                target_entropy=torch.zeros(8),
                target_layers=layers,
                metadata={"scene": str(number), "sequence": sequence, "question": "q"},
            )
        writer.add_heads(target=Head(lm_head, torch.ones(HIDDEN), 1e-6))
    return HiddenStates.open(folder)


def test_what_is_judged_is_what_was_written(tmp_path: Path) -> None:
    states, test = (made(tmp_path / name, [f"{name}_{n}" for n in range(4)]) for name in ("train", "test"))
    out = tmp_path / "pair"
    out.mkdir()
    shutil.copy(MINI_FOLDER / "card.json", out)
    card = train_mini_heads(states, test, out, tmp_path / "work", epochs=1)
    assert json.loads((out / "card.json").read_text()) == card
    told = {row["level"]: row for row in card["heads"]["rows"]}
    page = (out / "README.md").read_text()
    for level in ("E3", "B1", "L1", "E3S"):
        adapter = load_adapter(out / "heads" / level)
        again = judge(adapter, test, states.target_head.lm_head, (5,)).figures()
        assert told[level]["mean_acceptance_length"] == again["mean_acceptance_length"]
        assert all(torch.equal(p, p.bfloat16().float()) for p in adapter.parameters())
        assert f"| {level} | {adapter.num_parameters:,} | {again['mean_acceptance_length']:.2f} |" in page
    assert load_adapter(out / "heads/E3").settings.source_layers == (2, 5)
    assert card["heads"]["e3s_over_e3"]["low"] <= card["heads"]["e3s_over_e3"]["high"]
    assert "E3S from 4 answers about 4 sequences, 1 epochs" in page
    with pytest.raises(ValueError, match="level 'L9': expected one of E3, B1, L1, E3S"):
        train_mini_heads(states, test, out, tmp_path / "work", levels=["L9"])
    with pytest.raises(ValueError, match="sequence 'train_0' is one of those to train on"):
        train_mini_heads(states, states, out, tmp_path / "work")
    other = replace(test, config=test.config | {"target_weights": "others"})
    with pytest.raises(ValueError, match="'target_weights' is not that of"):
        train_mini_heads(states, other, out, tmp_path / "work")
    with pytest.raises(ValueError, match="expected samples of the mini pair"):
        train_mini_heads(states, replace(test, config=test.config | {"pair": "other"}), out, tmp_path / "work")


@pytest.mark.slow
def test_midis_head_drafts_frequent_tokens_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_mini_heads.SIZES, "midi", {"E3S": {"num_heads": 2, "ffn_dim": 32, "max_positions": 64}})
    monkeypatch.setattr(_mini_heads, "DRAFTED", 9)
    states, test = (made(tmp_path / name, [f"{name}_{n}" for n in range(2)], "midi") for name in ("train", "test"))
    asked = [{"loss": 1.0}] * 2
    slot = dict.fromkeys(("target", "target_blind", "drafter", "drafter_blind", "majority"), 0.5) | {"scenes": 3}
    card = {
        "target": asdict(MidiSettings()), "drafter": asdict(DrafterSettings()), "target_history": asked, "reminded": 1,
        "drafter_history": asked, "drafter_parameters": 1, "shipped_bytes": 1, "train_scenes": 1, "test_scenes": 1,
        "torch": "2", "language": {"base": 2.0, "target": 2.1, "ratio": 1.05, "questions": 50, "tokens": 99},
        "slots": dict.fromkeys(SLOTS, slot),
    }  # fmt: skip
    (tmp_path / "card.json").write_text(json.dumps(card))
    told = train_mini_heads(states, test, tmp_path, tmp_path / "work", epochs=2)
    head, lm_head = load_adapter(tmp_path / "heads" / "E3S"), states.target_head.lm_head
    assert isinstance(head, ServedHead) and set(head.settings.drafted) == set(
        range(9)
    )  # ids 0 to 8 stand in the answers
    hidden = torch.randn(3, HIDDEN)
    assert torch.equal(head.logits(hidden, lm_head)[:, :9], hidden @ lm_head[:9].T)
    assert (head.logits(hidden, lm_head)[:, 9:] == -torch.inf).all()
    (batch,) = test.chunks()
    assert batch.token_ids is not None
    ((_, predicted),) = predictions(head, batch, lm_head, 1)
    right = head.logits(predicted[:, :-1], lm_head).argmax(-1) == batch.token_ids[:, 1:]
    row = next(row for row in told["heads"]["rows"] if row["level"] == "E3S")
    assert row["top1"] == pytest.approx(right.float().mean().item())
    page = (tmp_path / "README.md").read_text()
    assert '`"midi-E3S"`' in page and "(1.050 times)" in page


def test_the_shipped_heads_are_of_the_shipped_pair() -> None:
    pair = load_pair("mini")
    told = {row["level"]: row for row in json.loads((MINI_FOLDER / "card.json").read_text())["heads"]["rows"]}
    for level, folder in MINI_HEADS.items():
        adapter = load_adapter(f"mini-{level}")
        assert (adapter.level, adapter.num_parameters) == (level, told[level]["parameters"])
        assert (adapter.settings.hidden_size, adapter.settings.input_size) == (pair.target.hidden_size,) * 2
        notes = read_sealed(folder / "adapter.json")["notes"]
        assert notes["drafter_weights"] == fingerprint(pair.drafter.module)
        assert notes["target_weights"] == fingerprint(pair.target.module)
    assert sum(path.stat().st_size for path in MINI_FOLDER.glob("heads/*/*")) < 7e6
    assert min(told[level]["low"] for level in ("E3", "B1")) > 0.2  # more than the drafter's own tokens give
