"""Saving, loading, and checkpoints of the earlier trainer, equal to their recorded outputs; hostile files refused."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egptlib.adapters import LEVELS, create_adapter, load_adapter, save_adapter

SMALL = {"bottleneck": 8, "num_heads": 4, "ffn_dim": 48, "max_positions": 24}


@pytest.mark.parametrize("level", ["L1", "L2", "L3", "L4", "L5", "L5F"])
def test_earlier_checkpoints_give_their_outputs(shared: Path, level: str) -> None:
    expected = load_file(shared / "golden/legacy_adapters/expected.safetensors")
    adapter = load_adapter(shared / "golden/legacy_adapters" / f"{level}.pt")
    assert adapter.level == level
    with torch.no_grad():
        out = adapter(*(expected[name] for name in adapter.inputs))
    torch.testing.assert_close(out, expected[f"out_{level}"], atol=1e-4, rtol=0)


def test_an_earlier_checkpoint_may_be_saved_anew(shared: Path, tmp_path: Path) -> None:
    old = load_adapter(shared / "golden/legacy_adapters/L5F.pt")
    new = load_adapter(save_adapter(old, tmp_path / "L5F"))
    assert new.settings == old.settings
    for name, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], value)


@pytest.mark.parametrize("level", LEVELS)
def test_save_and_load(tmp_path: Path, level: str) -> None:
    adapter = create_adapter(level, 32, drafter_size=24, **SMALL)
    save_adapter(adapter, tmp_path / "best", epoch=3)
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"adapter.json", "adapter.safetensors"}
    for path in (tmp_path, tmp_path / "best", tmp_path / "best/adapter.json", tmp_path / "best/adapter.safetensors"):
        loaded = load_adapter(path)
        assert not loaded.training
        assert (type(loaded), loaded.settings) == (type(adapter), adapter.settings)
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in adapter.state_dict().items())


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this ran",))


def test_a_pickle_that_asks_for_more_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model_state_dict": {}, "config": _Evil()}, tmp_path / "best_model.pt")
    with pytest.raises(ValueError, match=r"best_model\.pt: refused: its pickle asks for builtins\.print"):
        load_adapter(tmp_path / "best_model.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(ValueError, match=r"plain\.pt"):
        load_adapter(tmp_path / "plain.pt")
    assert "this ran" not in capsys.readouterr().out


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"adapter\.json: not found"):
        load_adapter(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_adapter(tmp_path / "nothing.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="field 'model_state_dict' is missing"):
        load_adapter(tmp_path / "other.pt")
    folder = save_adapter(create_adapter("L1", 32, **SMALL), tmp_path / "a")
    content = json.loads((folder / "adapter.json").read_text())
    content["settings"]["bottleneck"] = 9
    (folder / "adapter.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"adapter\.json: damaged: its checksum does not fit"):
        load_adapter(folder)
    del content["checksum"]
    (folder / "adapter.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tensor 'blocks\.0\.down\.weight' is \[8, 32\]; expected \[9, 32\]"):
        load_adapter(folder)
    content["settings"]["bottleneck"] = "wide"
    (folder / "adapter.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"field 'settings\.bottleneck' is 'wide'; expected int"):
        load_adapter(folder)


def test_no_flipped_bit_gives_other_weights_or_settings(tmp_path: Path) -> None:
    folder = save_adapter(create_adapter("L1", 32, **SMALL), tmp_path / "a", epoch=3)
    truth = load_adapter(folder)
    chance = random.Random(5)
    refused = 0
    for name in ("adapter.json", "adapter.safetensors") * 40:
        path = folder / name
        whole = path.read_bytes()
        bit = chance.randrange(8 * len(whole))
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            found = load_adapter(folder)
            assert found.settings == truth.settings
            assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), truth.state_dict().values()))
        except ValueError as error:
            assert name in str(error)
            refused += 1
        path.write_bytes(whole)
    assert refused > 70


def test_the_layers_a_head_was_trained_on_are_kept(tmp_path: Path) -> None:
    adapter = create_adapter("E3", 32, **SMALL, source_layers=(1, 2, 4))
    assert load_adapter(save_adapter(adapter, tmp_path)).settings.source_layers == (1, 2, 4)
    content = json.loads((tmp_path / "adapter.json").read_text())
    del content["checksum"]
    for wrong, told in (([1, 2], "expected 3 numbers"), ([1, 2, "4"], "expected whole numbers"), (3, "expected tuple")):
        content["settings"]["source_layers"] = wrong
        (tmp_path / "adapter.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"source_layers.*{told}"):
            load_adapter(tmp_path)
