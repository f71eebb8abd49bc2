"""Adapters on disk: `adapter.safetensors` and `adapter.json`; and `load_adapter`, which opens the earlier files too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egptlib._sealed import read_sealed, write_sealed
from egptlib.adapters._build import build, create_adapter, fill, read_tensors, write_tensors
from egptlib.adapters._legacy import load_legacy
from egptlib.adapters._levels import Adapter
from egptlib.adapters._served_files import load_served
from egptlib.adapters._settings import AdapterSettings, level_settings
from egptlib.models import MIDI_FOLDER, MINI_FOLDER

WEIGHTS, SETTINGS = "adapter.safetensors", "adapter.json"
FORMAT = "egptlib adapter"
VERSION = 1
MINI_HEADS = {folder.name: folder for folder in sorted((MINI_FOLDER / "heads").iterdir())}
"""Where the trained adapters of the mini pair are."""
SHIPPED_HEADS = {
    f"{pair.name}-{folder.name}": folder
    for pair in (MINI_FOLDER, MIDI_FOLDER)
    for folder in sorted(pair.glob("heads/*"))
}
"""Those of all pairs, as `load_adapter` takes their names."""


def count_parameters(level: str, hidden_size: int = 4096, **settings: Any) -> int:
    """Number of parameters of a level, without allocating them."""
    with torch.device("meta"):
        return create_adapter(level, hidden_size, **settings).num_parameters


def save_adapter(adapter: Adapter, folder: str | os.PathLike[str], **notes: Any) -> Path:
    """Write an adapter into a folder, each file atomically, the weights last.

    Args:
        adapter: what to save.
        folder: made when missing.
        notes: plain values kept in `adapter.json`, such as the epoch and what validation gave.

    Returns:
        The folder.
    """
    return write_files(folder, FORMAT, adapter.settings.to_dict(), adapter.state_dict(), notes)


def write_files(
    folder: str | os.PathLike[str],
    form: str,
    settings: dict[str, Any],
    tensors: Mapping[str, Tensor],
    notes: dict[str, Any],
) -> Path:
    """Write the two files of anything trained in this room, each atomically, the weights last; returns the folder."""
    folder = Path(folder)
    told = {"format": form, "version": VERSION, "settings": settings, "notes": notes}
    write_sealed(folder / SETTINGS, told)
    write_tensors(folder / WEIGHTS, tensors)
    return folder


def read_form(path: Path, form: str, missing: str) -> dict[str, Any]:
    """What a sealed file of one format holds.

    Raises:
        FileNotFoundError: it is not there; `missing` tells what was expected.
        ValueError: damaged, of another format, or of a version not known here.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected {missing}")
    content = read_sealed(path)
    if (content.get("format"), content.get("version", VERSION)) != (form, VERSION):
        found = f"{content.get('format')!r} version {content.get('version', VERSION)}"
        raise ValueError(f"{path}: format {found}; expected {form!r} version {VERSION}")
    return content


def load_adapter(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Adapter:
    """Open an adapter, whatever its level, in evaluation mode.

    Args:
        path: a folder with `adapter.json` and `adapter.safetensors` (or a run folder, which keeps them in `best/`),
            one of the two files, or a checkpoint of the earlier trainer (`best_model.pt`), which is opened without
            running what its pickle may carry, or a folder of a published EAGLE-3 head (see `export_head`). "mini-E3",
            "mini-B1", "mini-L1", "mini-E3S" and "midi-E3S" are those trained for the mini and the midi pair.
        device: where to.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not an adapter, or its weights do not fit its settings (the first difference is named).

    Example:
        >>> from egptlib.adapters import create_adapter, save_adapter
        >>> folder = save_adapter(create_adapter("B1", hidden_size=64), "adapters/b1")
        >>> load_adapter(folder).settings.level
        'B1'
    """
    path = {name.lower(): folder for name, folder in SHIPPED_HEADS.items()}.get(str(path).lower(), Path(path))
    if path.suffix in (".pt", ".pth"):
        return load_legacy(path).to(device).eval()
    folder = kept_in(path.parent if path.name in (WEIGHTS, SETTINGS) else path)
    if not (folder / SETTINGS).is_file() and (folder / "config.json").is_file():
        return load_served(folder).to(device).eval()
    adapter = build(read_settings(folder / SETTINGS))
    fill(adapter, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    return adapter.to(device).eval()


def kept_in(folder: Path) -> Path:
    """Where an adapter's files are: in the folder itself, or in `best/` of a run folder."""
    return next((place for place in (folder, folder / "best") if (place / SETTINGS).is_file()), folder)


def read_settings(path: Path) -> AdapterSettings:
    """Read the settings in an `adapter.json`."""
    named = f"an adapter's folder, a .pt of the earlier trainer, or one of {', '.join(SHIPPED_HEADS)}"
    content = read_form(path, FORMAT, named)
    settings = content.get("settings")
    if not isinstance(settings, dict) or not isinstance(settings.get("level"), str):
        raise ValueError(f"{path}: field 'settings.level' is missing; expected the name of a level")
    kinds: dict[str, type | tuple[type, ...]] = {"float": (int, float), "int": int, "bool": bool, "str": str}
    kinds |= {"int | None": (int, type(None)), "tuple[int, ...]": list}
    for field in fields(AdapterSettings):
        value = settings.get(field.name)
        if field.name in settings and not isinstance(value, kinds[str(field.type)]):
            raise ValueError(f"{path}: field 'settings.{field.name}' is {value!r}; expected {field.type}")
    for name in ("source_layers", "drafted"):
        if not all(type(number) is int for number in settings.get(name, ())):
            raise ValueError(f"{path}: field 'settings.{name}': expected whole numbers")
    try:
        return level_settings(**settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
