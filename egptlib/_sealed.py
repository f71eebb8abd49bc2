"""Files that tell when they are no longer what was written: JSON with a checksum, folders with a list of digests."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egptlib._paths import read_json, write_json


def content_checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of an object's fields but `checksum`, as JSON with sorted keys and no spaces, in hex."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_sealed(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write an object as JSON, atomically, with a field `checksum` that `read_sealed` compares."""
    # As it will be read: keys are text, and sorted as text.
    read: dict[str, Any] = json.loads(json.dumps(dict(content), allow_nan=False))
    write_json(path, read | {"checksum": content_checksum(read)})


def read_sealed(path: str | os.PathLike[str], always: str = "") -> dict[str, Any]:
    """Return an object that `write_sealed` wrote, without its `checksum`; one that has none is taken as it is.

    Args:
        path: of the file.
        always: a field that no file without a checksum has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no JSON object, or not the one that was written.
    """
    content = read_json(path)
    if always in content and "checksum" not in content:
        raise ValueError(f"{path}: damaged: field 'checksum' is missing beside {always!r}")
    if "checksum" in content and content.pop("checksum") != content_checksum(content):
        raise ValueError(
            f"{path}: damaged: its checksum does not fit its content; whoever changed it by hand removes that field"
        )
    return content


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its name there."""
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def compare_digests(folder: Path, digests: Any) -> None:
    """Compare files with what `folder_digests` said of them; files that are there besides do not matter.

    Raises:
        ValueError: one is gone, or has other bytes; or `digests` does not say which there were.
    """
    if not isinstance(digests, dict):
        raise ValueError(f"{folder}: field 'files': expected names and digests, found {digests!r:.50}")
    for name, digest in digests.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{folder}: field 'files': {name!r} is not inside the folder")
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: no longer there")
        if sha256(path) != digest:
            raise ValueError(f"{path}: damaged: other bytes than were written")
