"""JSON files: read without surprises, and sealed by a checksum of their content."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egptlib._paths import write_json


def parse_json(data: bytes | str, name: object) -> Any:
    """Return what JSON text says.

    Raises:
        ValueError: it is no JSON, or nested too deeply to be read; the message begins with `name`.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply; expected a file that egptlib wrote") from None
    except ValueError as error:
        raise ValueError(f"{name}: not valid JSON ({error})") from None


def content_checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of an object's fields but `checksum`, as JSON with sorted keys and no spaces, in hex."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_sealed(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write an object as JSON, atomically, with a field `checksum` that `read_sealed` compares."""
    # As it will be read: keys are text, and sorted as text.
    read: dict[str, Any] = json.loads(json.dumps(dict(content), allow_nan=False))
    write_json(path, read | {"checksum": content_checksum(read)})


def read_sealed(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return an object that `write_sealed` wrote, without its `checksum`; one that has none is taken as it is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no JSON object, or not the one that was written.
    """
    content = parse_json(Path(path).read_bytes(), path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    if "checksum" in content and content.pop("checksum") != content_checksum(content):
        raise ValueError(
            f"{path}: damaged: its checksum does not fit its content; whoever changed it by hand removes that field"
        )
    return content
