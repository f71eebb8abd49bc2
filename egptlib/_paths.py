"""Where data lives, and how a file is written so that a reader never sees half of it."""

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parent.parent


def project_root() -> Path | None:
    """Return the checkout this package runs from, or None when it was installed as a wheel."""
    return _PROJECT if (_PROJECT / "pyproject.toml").is_file() else None


def data_root() -> Path:
    """Return the folder that holds data made on this machine (it may not exist yet).

    In this order: the environment variable EGPTLIB_DATA, ``data/`` of the checkout, ``~/.cache/egptlib``.
    """
    if configured := os.environ.get("EGPTLIB_DATA"):
        return Path(configured).expanduser()
    checkout = project_root()
    return checkout / "data" if checkout else Path.home() / ".cache" / "egptlib"


def find_path(name: str | os.PathLike[str], missing: str = "no such file or folder") -> Path:
    """Return the absolute path of a file or folder that somebody names, from the working folder, the checkout or
    `data_root()`, the first where it is.

    Raises:
        FileNotFoundError: it is in none of them; the message has every place that was looked at.
    """
    roots = [Path.cwd(), project_root(), data_root()]
    places = list(dict.fromkeys(Path(root, Path(name).expanduser()).absolute() for root in roots if root))
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{name}: {missing}; looked for {' and '.join(map(str, places))}")


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place when the block ends without an error.

    The temporary file is flushed to disk before it is renamed, so after a crash `path` holds either its old
    content or all of the new one. The folder is created when it is missing. On an error the temporary file
    is removed and `path` stays as it was.

    Raises:
        FileNotFoundError: the block did not write the temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as PIL and PyAV choose their format by it. Nothing exists before the block
    # that clears it away, so an interrupt at any place leaves nothing behind.
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(6)}{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_bytes(json_bytes(text + "\n"))


def read_json(path: str | os.PathLike[str], wide: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file; with `wide` also whole numbers that 64 bits do not hold.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds NaN or infinity (which JSON has not), or something else than an object.
    """
    content = parse_json(Path(path).read_bytes(), path, wide=wide)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def parse_json(data: bytes | str, name: object, nan: bool = False, wide: bool = False) -> Any:
    """Return what JSON text says, with `nan` also Python's NaN and infinity; ValueErrors begin with `name`.

    A whole number that 64 bits do not hold is refused: nothing here counts so far, and arrays overflow. With `wide` it
    is taken: a tokenizer without a longest input says 1e30 to transformers.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    def whole(digits: str) -> int:
        if not -(2**63) <= (number := int(digits[:25])) < 2**63:
            raise ValueError(f"{digits[:25]}... is more than 64 bits hold")
        return number

    try:
        long = not wide and re.search(rb"\d{19}" if isinstance(data, bytes) else r"\d{19}", data)  # type: ignore[arg-type]
        return json.loads(data, parse_constant=None if nan else refuse, parse_int=whole if long else None)
    except RecursionError:
        raise ValueError(f"{name}: not readable as JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{name}: not valid JSON: {error}") from error


def json_bytes(text: str) -> bytes:
    """JSON text as UTF-8; a lone surrogate, which UTF-8 has no bytes for, as the escape that JSON has for it."""
    return text.encode("utf-8", "backslashreplace")


def _sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
