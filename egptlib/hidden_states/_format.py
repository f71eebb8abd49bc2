"""What a chunk folder looks like.

    index.json                        format, version, config, widths, and the list of chunks with their sizes
    chunks/chunk_000000.safetensors   named after its first sample; every sample's positions one after the other

A chunk holds `drafter_hidden` [positions, drafter width], `target_hidden` [positions, target width],
`token_ids` and `drafter_top1` int32 [positions], `overlap` float32 [positions], `offsets` int64 [samples + 1],
and in its header, as JSON, one metadata record per sample. So a chunk is whole or not there, texts included; and
as the index is written after it, both atomically, a sample counts only when both are on disk.
"""

import json
from pathlib import Path
from typing import Any

FORMAT = "egptlib hidden states"
VERSION = 1
HEADER_KEY = "samples"


def read_index(folder: Path) -> dict[str, Any]:
    """Return `index.json` of a chunk folder, this format's or the earlier one's.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or not of a chunk folder, or one of its chunks is not a plain file name.
    """
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected a hidden-state folder with index.json and chunks/")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(index, dict) or not isinstance(index.get("chunks"), list):
        raise ValueError(f"{path}: field 'chunks' is missing; expected a list of chunk files")
    if not is_legacy(index) and (index.get("format"), index.get("version")) != (FORMAT, VERSION):
        raise ValueError(
            f"{path}: format {index.get('format')!r} version {index.get('version')!r}; "
            f"expected {FORMAT!r} version {VERSION}"
        )
    for entry in index["chunks"]:
        name = entry.get("path")
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{path}: chunk path {name!r}; expected the name of a file in chunks/")
    return index


def is_legacy(index: dict[str, Any]) -> bool:
    """Whether the index was left by the earlier writer (`total_samples`, chunks of torch.save)."""
    return "format" not in index and "total_samples" in index
