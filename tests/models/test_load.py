"""Opening a pair."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from egptlib.models import EventGPT, Pair, load_pair, shared_vocabulary

from .conftest import make_tokenizer


def test_a_pair_shares_its_first_ids(pair: Pair) -> None:
    assert len(pair.vocabulary) == 300
    assert pair.drafter.name != pair.target.name


def test_weights_stored_in_bfloat16_run_in_float32(
    event_checkpoint: Path, video_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(event_checkpoint, tmp_path / "half"))
    weights = {key: value.to(torch.bfloat16) for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    mini = load_pair("mini", drafter=folder, target=video_checkpoint)
    assert mini.drafter.dtype == torch.float32
    whole = EventGPT.from_pretrained(event_checkpoint).lm_head.weight
    assert torch.equal(mini.drafter.lm_head.weight, whole.to(torch.bfloat16).float())


def test_the_large_pair_is_opened_in_bfloat16(event_checkpoint: Path, video_checkpoint: Path) -> None:
    large = load_pair("eventgpt-videollava", drafter=event_checkpoint, target=video_checkpoint)
    for model in (large.drafter, large.target):
        assert {parameter.dtype for parameter in model.module.parameters()} == {torch.bfloat16}


def test_vocabularies_are_compared_not_counted(event_checkpoint: Path, video_checkpoint: Path, tmp_path: Path) -> None:
    """As many tokens, the same first ones: only what stands at each id tells two tokenizers apart."""
    folder = Path(shutil.copytree(event_checkpoint, tmp_path / "other"))
    make_tokenizer(text="zwei Autos fahren links").save_pretrained(folder)
    other = load_pair("mini", drafter=folder, target=video_checkpoint)
    assert len(other.drafter.tokenizer) == 300 and not other.vocabulary.is_shared
    names = [set(model.tokenizer.get_vocab()) for model in (other.drafter, other.target)]
    assert len(other.vocabulary) == len(names[0] & names[1]) < 300
    with pytest.raises(ValueError, match=r"need one vocabulary; they differ from id \d+ on: "):
        shared_vocabulary(other.drafter, other.target)


def test_the_models_own_specials_may_differ(event_checkpoint: Path, video_checkpoint: Path, tmp_path: Path) -> None:
    """The real EventGPT adds <ev_patch> at the id where Video-LLaVA has <image>."""
    folder = Path(shutil.copytree(event_checkpoint, tmp_path / "patched"))
    config = json.loads((folder / "config.json").read_text()) | {"mm_use_im_patch_token": True}
    (folder / "config.json").write_text(json.dumps(config))
    pair = load_pair("mini", drafter=folder, target=video_checkpoint)
    assert len(pair.drafter.tokenizer) == 301
    assert len(pair.vocabulary) == 300


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pair 'big': expected 'mini', 'midi', a pair"):
        load_pair("big")
    with pytest.raises(ValueError, match="train-mini"):
        load_pair("mini", drafter=tmp_path)
    with pytest.raises(ValueError, match="quantization: expected 'nf4' or 'int8', found 'int4'"):
        load_pair("large", drafter=tmp_path, target=tmp_path, quantization="int4")


def test_a_file_that_is_not_whole_is_named(event_checkpoint: Path, video_checkpoint: Path, tmp_path: Path) -> None:
    """Shards of a download that was cut, and what git-lfs leaves where it was not installed."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\n"
    folder = Path(shutil.copytree(event_checkpoint, tmp_path / "sharded"))
    EventGPT.from_pretrained(event_checkpoint).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink()
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    whole = shards[1].read_bytes()
    for content, why in ((whole[:-5], "damaged or cut weights"), (b"", "damaged or cut weights"), (pointer, "git-lfs")):
        shards[1].write_bytes(content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(shards[1]))}: .*{why}"):
            load_pair("mini", drafter=folder, target=video_checkpoint)
    shards[1].write_bytes(whole)
    for name, content, why in (
        ("tokenizer.json", pointer, "git-lfs"),
        ("pytorch_model.bin", b"PK\3\4 and no end", "cut"),
    ):
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(folder / name))}: .*{why}"):
            load_pair("mini", drafter=folder, target=video_checkpoint)
        if before is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(before)
    load_pair("mini", drafter=folder, target=video_checkpoint)
