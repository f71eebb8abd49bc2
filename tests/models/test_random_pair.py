"""Pairs that are written: as wide as the real ones with random weights, and quantized once and for all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from egptlib.models import (
    EventGPTConfig,
    fingerprint,
    load_pair,
    make_random_pair,
    pair_settings,
    plan_memory,
    quantize_pair,
    stored_bytes,
)
from egptlib.models._memory import published_configs


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.filterwarnings("ignore:.*in int8 a token")
def test_a_pair_saved_quantized_gives_the_same_answers(
    event_checkpoint: Path, video_checkpoint: Path, scene: Any, tmp_path: Path, quantization: Any
) -> None:
    prompt = '{frames} ASK \\ {question}\n"now"'
    plain: Any = {"drafter": event_checkpoint, "target": video_checkpoint, "form": "images", "prompt": prompt}
    before = load_pair("tiny", quantization=quantization, **plain)
    path = quantize_pair(pair_settings("tiny", **plain), tmp_path / "saved", quantization)
    after = load_pair(path)
    assert after.name == f"tiny-{quantization}" and sorted(p.name for p in path.parent.iterdir()) == [
        "drafter", "pair.toml", "target"
    ]  # fmt: skip
    for old, new in ((before.drafter, after.drafter), (before.target, after.target)):
        assert fingerprint(old.module) == fingerprint(new.module) and stored_bytes(old.module) == stored_bytes(
            new.module
        )
        answers = [model.greedy(scene, "What moves?", 8) for model in (old, new)]
        assert torch.equal(answers[0].token_ids, answers[1].token_ids)
        assert torch.equal(answers[0].hidden, answers[1].hidden)
    with pytest.raises(ValueError, match=f"^{path.parent}: exists already; expected a new folder"):
        quantize_pair(path, path.parent)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]


def test_a_random_pair_is_as_wide_as_told(scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With narrow configs in place of the published ones: writing and opening, in shards."""
    narrow = published_configs()
    for config in (narrow["EventGPT"], narrow["Video-LLaVA"].text_config):
        config.update({"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2})
        config.update({"vocab_size": 800, "head_dim": 16})
    for config in (narrow["EventGPT"].vision_config, narrow["Video-LLaVA"].vision_config):
        config.update({"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2})
    monkeypatch.setattr("egptlib.models._random_pair.published_configs", lambda: narrow)
    monkeypatch.setattr("egptlib.models._random_pair.SHARD", 60_000)
    path = make_random_pair(tmp_path / "out", layers=1)
    assert len(list((path.parent / "target").glob("*.safetensors"))) > 1
    pair = load_pair(path)
    assert pair.target.dtype == torch.bfloat16 and len(pair.vocabulary) == 768
    for model in (pair.drafter, pair.target):
        assert len(model.language_model.layers) == 1  # type: ignore[arg-type]
        answer = model.greedy(scene, "What moves?", 4)
        assert all(3 <= token < 768 for token in answer.token_ids.tolist())
    with pytest.raises(ValueError, match="layers: expected at least 1, found 0"):
        make_random_pair(tmp_path, layers=0)


def test_the_configs_that_are_written_are_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the number of layers: the plan of the written pair grows to that of the published one."""
    monkeypatch.setattr("egptlib.models._random_pair._write_weights", lambda *_: None)
    path = make_random_pair(tmp_path, layers=32)
    kinds: Any = {"drafter": EventGPTConfig, "target": AutoConfig}
    plan = plan_memory({side: kind.from_pretrained(path.parent / side) for side, kind in kinds.items()})
    assert plan.weight_bytes("bfloat16") == plan_memory().weight_bytes("bfloat16")
