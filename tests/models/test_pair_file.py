"""A pair in one file: what it may say, where its folders are, and what is said where it is wrong."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from egptlib.models import PairSettings, load_pair, pair_settings

EXAMPLE = Path(__file__).parents[2] / "docs" / "pair.toml"


@pytest.fixture
def folder(event_checkpoint: Path, video_checkpoint: Path, tmp_path: Path) -> Path:
    """Both checkpoints under the names that the example gives them, and the example beside them."""
    (tmp_path / "visual_tower").mkdir()
    (tmp_path / "visual_tower" / "config.json").write_text("{}")
    for name, checkpoint in (("EventGPT-7b", event_checkpoint), ("Video-LLaVA-7B-hf", video_checkpoint)):
        os.symlink(checkpoint, tmp_path / name)
    shutil.copy(EXAMPLE, tmp_path / "my_pair.toml")
    return tmp_path


def write(path: Path, **fields: object) -> Path:
    lines = {"drafter": "EventGPT-7b", "target": "Video-LLaVA-7B-hf"} | fields
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    return path


def test_the_example_opens_the_pair_it_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # its folders are relative to the file
    settings = pair_settings(folder / "my_pair.toml")
    assert (settings.name, settings.quantization, settings.device) == ("eventgpt-videollava", "nf4", "cuda")
    assert settings.drafter == str(folder / "EventGPT-7b")
    pair = load_pair(folder / "my_pair.toml", device="cpu")
    assert pair.name == "eventgpt-videollava" and pair.target.prompt == settings.prompt  # type: ignore[attr-defined]
    assert pair.target.module.is_loaded_in_4bit


def test_every_line_of_the_example_may_be_set(folder: Path) -> None:
    """Lines that are commented out there are right too."""
    text = re.sub(r"^# ?(\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    (folder / "all.toml").write_text(text)
    told = re.findall(r"^(\w+) = ", text, re.MULTILINE)
    assert sorted(told) == sorted(PairSettings.__dataclass_fields__)
    pair_settings(folder / "all.toml")


def test_a_file_and_arguments_open_the_same_pair(folder: Path) -> None:
    prompt = "USER: {frames}\n{question}\nASSISTANT:"
    path = write(folder / "small.toml", dtype="float32", form="images", prompt=prompt)
    ours = load_pair(path)
    theirs = load_pair(
        drafter=folder / "EventGPT-7b",
        target=folder / "Video-LLaVA-7B-hf",
        dtype=torch.float32,
        form="images",
        prompt=prompt,
    )
    assert (ours.name, theirs.name) == ("small", "EventGPT-7b-Video-LLaVA-7B-hf")
    assert ours.drafter.dtype == theirs.target.dtype == torch.float32
    ids = [pair.target._ids("What?", 2).tolist() for pair in (ours, theirs)]  # type: ignore[attr-defined]
    assert ids[0] == ids[1]
    assert pair_settings(path).torch_dtype == torch.float32
    assert (ours.matching, load_pair(path, matching="text").matching) == ("tokens", "text")


def test_the_mini_pair_may_have_a_file(tmp_path: Path) -> None:
    (tmp_path / "gpu.toml").write_text('name = "mini"\ndevice = "cuda"\ntarget_device = "cuda:1"\n')
    settings = pair_settings(tmp_path / "gpu.toml")
    assert Path(settings.folder("target"), "config.json").is_file()
    assert settings.key != "mini" == pair_settings().key


def test_pairs_of_one_name_have_keys_of_their_own(folder: Path) -> None:
    keys = {pair_settings(write(folder / "x.toml", device=device)).key for device in ("cpu", "cuda", "cpu")}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('drafer = "x"', "drafer: unknown; expected one of name, drafter, "),
        ("quantization = 4", "quantization: expected text, found int: 4"),
        ('quantization = "int4"', "quantization: expected 'nf4' or 'int8', found 'int4'"),
        ('form = "clip"', "form: expected 'video' or 'images', found 'clip'"),
        ('device = "gpu"', "device: expected a device as cpu, cuda or cuda:1, found 'gpu'"),
        ('prompt = "What?"', "prompt: expected {question} in it, found 'What?'"),
        ('visual_tower = "tower"', "visual_tower: expected a checkpoint folder, found no such folder: "),
        ('visual_tower = "empty"', "visual_tower: expected a checkpoint folder, found a folder without config.json: "),
        ('device = ""', "device: expected text, found nothing"),
        ("[drafter]", "not TOML"),
    ],
)
def test_what_is_wrong_names_file_field_and_expectation(folder: Path, line: str, message: str) -> None:
    (folder / "empty").mkdir()
    path = write(folder / "bad.toml")
    path.write_text(path.read_text() + line)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        pair_settings(path)


def test_a_pair_needs_both_models(folder: Path) -> None:
    (folder / "half.toml").write_text('drafter = "EventGPT-7b"\n')
    with pytest.raises(ValueError, match=r"half\.toml: target: expected a checkpoint folder, found none"):
        pair_settings(folder / "half.toml")
    with pytest.raises(FileNotFoundError, match=r"none\.toml: no such file"):
        pair_settings(folder / "none.toml")
    with pytest.raises(ValueError, match=r"expected 'mini', 'midi', a pair\.toml, or the checkpoint folders"):
        load_pair("eventgpt-videollava", quantization="nf4")
