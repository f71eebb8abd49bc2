"""What a pair consists of, in one object, and in one file: `pair.toml`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from egptlib._paths import data_root

if TYPE_CHECKING:
    from egptlib.models._quantization import Quantization
    from egptlib.models._video_llava import Form
    from egptlib.models._vocabulary import Matching

_CHOICES = {
    "quantization": ("nf4", "int8"),
    "dtype": ("float32", "bfloat16", "float16"),
    "form": ("video", "images"),
    "matching": ("tokens", "text"),
}
_FOLDERS = ("drafter", "target", "visual_tower")
HUB = "hub:"
MINI_FOLDER = Path(__file__).with_name("mini")
"""Where the shipped weights are: `drafter/`, `target/`, and the model card."""
MIDI_FOLDER = Path(__file__).with_name("midi")
"""Where what was trained of the midi pair is shipped, without its language model."""
MADE_PAIRS = ("midi",)
"""Pairs that `egptlib make-pair` puts together on a machine."""


def made_pair(name: str) -> Path:
    """The `pair.toml` of one of `MADE_PAIRS`, which may not be there yet."""
    return data_root() / name / "pair.toml"


@dataclass(frozen=True)
class PairSettings:
    """A pair of models: one field for each line of a `pair.toml` and each argument of `load_pair`.

    Attributes:
        name: how runs and reports call the pair; "mini" without folders is the pair that comes with this package.
        drafter, target: checkpoint folders; "hub:ORG/NAME" is a snapshot of the hub.
        visual_tower: folder of EventGPT's tower, see `EventGPT.from_pretrained`.
        quantization: "nf4" (4 bit, double quantization), "int8" (a target's answers depend on how many tokens a pass
            verifies, see Dettmers et al. 2022 on outlier columns), or None.
        dtype: "float32", "bfloat16" or "float16", of what is not quantized. None: float32 for "mini", bfloat16
            otherwise (float16 with "int8", whose kernels take nothing else).
        device, target_device: "cpu", "cuda", "cuda:1", where drafter and target sit; None puts the target beside the
            drafter.
        form: how the target sees its frames, "video" or "images".
        prompt: what the target is asked, with `{question}` in it and `{frames}` where the frames go; None: the model's
            own.
        matching: how a draft becomes the target's tokens where the two have different vocabularies: "tokens" (those
            that both have), or "text" (what was drafted is split anew).

    Raises:
        ValueError: a value of the wrong type, or not among those expected.
    """

    name: str = "mini"
    drafter: str | None = None
    target: str | None = None
    visual_tower: str | None = None
    quantization: Quantization = None
    dtype: str | None = None
    device: str = "cpu"
    target_device: str | None = None
    form: Form = "video"
    prompt: str | None = None
    matching: Matching = "tokens"

    def __post_init__(self) -> None:
        _check({field.name: getattr(self, field.name) for field in fields(self)}, "pair")

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """As `loading_options` takes it."""
        plain_mini = self.name == "mini" and self.quantization is None
        name = self.dtype or ("float32" if plain_mini else None)
        return None if name is None else getattr(torch, name)

    def folder(self, side: str) -> str:
        """The checkpoint of "drafter" or "target".

        Raises:
            ValueError: the mini pair's weights are not there.
        """
        folder = getattr(self, side) or str(MINI_FOLDER / side)
        if self.name == "mini" and not Path(folder, "config.json").is_file():
            raise ValueError(f"{folder}: the mini pair's weights are not here; make them with `egptlib train-mini`")
        return folder.removeprefix(HUB)

    @property
    def key(self) -> str:
        """A name for files: that of the pair, with a digest of everything else where it is not the plain mini pair."""
        if self == PairSettings():
            return self.name
        told = json.dumps([getattr(self, field.name) for field in fields(self)])
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", self.name)
        return f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def pair_settings(pair: str | Path | PairSettings = "", **changes: Any) -> PairSettings:
    """Settings of a pair by its name or from its file, with what `changes` says otherwise (None: no change).

    Raises:
        ValueError: a name that is neither "mini" nor has folders, "midi" where it has not been made, or a file that
            is not as it should be.
        FileNotFoundError: no such file.
    """
    changes = {name: str(value).removeprefix("torch.") for name, value in changes.items() if value is not None}
    if isinstance(pair, PairSettings):
        return replace(pair, **changes)
    if pair in MADE_PAIRS and not {"drafter", "target"} <= changes.keys():
        path = made_pair(str(pair))
        if not path.is_file():
            raise ValueError(f"{path}: the {pair} pair is not here; make it with `egptlib make-pair {pair}`")
        pair = path
    if str(pair).endswith(".toml"):
        return replace(read_pair_file(pair), **changes)
    if not pair and {"drafter", "target"} <= changes.keys():
        pair = "-".join(Path(changes[side]).name for side in ("drafter", "target"))
    settings = PairSettings(**{"name": str(pair or "mini")} | changes)
    if settings.name != "mini" and (settings.drafter is None or settings.target is None):
        raise ValueError(
            f"pair {settings.name!r}: expected 'mini', 'midi', a pair.toml, or the checkpoint folders drafter=... and "
            "target=..."
        )
    return settings


def read_pair_file(path: str | Path) -> PairSettings:
    """Read a `pair.toml`; relative folders in it are relative to the file, and its name is the file's unless given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TOML, an unknown key, a value of the wrong type or not among those expected, or a folder
            without a `config.json`. The message names file, field and expectation.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()}: no such file; expected a pair.toml")
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML ({error})") from None
    except RecursionError:
        raise ValueError(f"{path}: not TOML (nested too deeply)") from None
    _check(told, str(path))
    name = told.setdefault("name", path.stem)
    for side in ("drafter", "target"):
        if side not in told and name != "mini":
            raise ValueError(f"{path}: {side}: expected a checkpoint folder, found none")
    for field in _FOLDERS:
        if field in told and not told[field].startswith(HUB):
            folder = Path(os.path.abspath(path.parent / Path(told[field]).expanduser()))
            if not (folder / "config.json").is_file():
                lacks = "a folder without config.json" if folder.is_dir() else "no such folder"
                raise ValueError(f"{path}: {field}: expected a checkpoint folder, found {lacks}: {folder}")
            told[field] = str(folder)
    return PairSettings(**told)


def _check(told: dict[str, Any], where: str) -> None:
    known = {field.name: field.default for field in fields(PairSettings)}
    for field, value in told.items():
        if field not in known:
            raise ValueError(f"{where}: {field}: unknown; expected one of {', '.join(known)}")
        if value is None and known[field] is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{where}: {field}: expected text, found {type(value).__name__}: {value!r}")
        if not value.strip():
            raise ValueError(f"{where}: {field}: expected text, found nothing; leave the line out for the default")
        if field in _CHOICES and value not in _CHOICES[field]:
            expected = " or ".join(map(repr, _CHOICES[field]))
            raise ValueError(f"{where}: {field}: expected {expected}, found {value!r}")
        if field in ("device", "target_device") and not _is_device(value):
            raise ValueError(f"{where}: {field}: expected a device as cpu, cuda or cuda:1, found {value!r}")
        if field == "prompt" and "{question}" not in value:
            raise ValueError(f"{where}: prompt: expected {{question}} in it, found {value!r}")


def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True
