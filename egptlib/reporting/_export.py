"""Files of ours in a folder that may hold files of a person's: what we did not write there, we do not touch.

A manifest in the folder lists what an export wrote, with a checksum each. A later export replaces and removes only what
is listed and unchanged. What a person has edited since stays as it is, and the new one is written beside it.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from egptlib._paths import atomic_write, read_json, write_json
from egptlib._sealed import sha256

MANIFEST = ".egptlib-export.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}")
_BEING_WRITTEN = ""  # stands for the checksum until the export has ended, so that an interrupted one can be replaced


class Export:
    """One export into `out`, as a context; nothing is written before all names are known to be free or ours.

    Attributes:
        kept: files that a person has edited -> name under which the new one was written; "" where there is none.
    """

    def __init__(self, out: Path, names: Iterable[str]) -> None:
        """Look whether the folder can take these files.

        Args:
            out: folder, made when missing.
            names: of every file that may be written, relative to it.

        Raises:
            FileExistsError: a file that no earlier export wrote has one of these names, or `out` is no folder.
            ValueError: the manifest is damaged.
        """
        self._out = out
        self._before = _read_manifest(out)
        self._written: dict[str, str] = {}
        names = list(names)
        self.kept = {name: _beside(name) for name in names if self._is_edited(name)}
        self._names = [self.kept.get(name, name) for name in names]
        for name in self._names:
            self._require_room(name)

    def __enter__(self) -> Self:
        self._out.mkdir(parents=True, exist_ok=True)
        self._write_manifest(self._before | dict.fromkeys(self._names, _BEING_WRITTEN))
        return self

    def write(self, name: str, content: str | Path) -> None:
        """Write text, or a copy of a file, under one of the names."""
        name = self.kept.get(name, name)
        with atomic_write(self._out / name) as temporary:
            if isinstance(content, Path):
                shutil.copyfile(content, temporary)
            else:
                temporary.write_text(content, encoding="utf-8", errors="backslashreplace")
        self._written[name] = sha256(self._out / name)

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if error is not None:
            return
        before = {name: checksum for name, checksum in self._before.items() if name not in self._written}
        edited = {name: checksum for name, checksum in before.items() if self._is_edited(name)}
        for path in (self._out / name for name in {*before, *self._names} - {*self._written, *edited}):
            if path.is_file():
                path.unlink()
        self.kept = {name: self.kept.get(name, "") for name in edited}
        self._write_manifest(edited | self._written)

    def tell_kept(self, tell: Callable[[str], object]) -> None:
        """Tell a line about each file that a person has edited."""
        for name, new in self.kept.items():
            tell(f"{self._out / name}: edited by somebody, so it stays" + (f"; the new one is {new}" if new else ""))

    def _write_manifest(self, files: dict[str, str]) -> None:
        write_json(self._out / MANIFEST, {"files": dict(sorted(files.items()))})

    def _is_edited(self, name: str) -> bool:
        """Whether we wrote this file and somebody has changed it since."""
        path, before = self._out / name, self._before.get(name)
        return bool(before) and path.is_file() and sha256(path) != before

    def _require_room(self, name: str) -> None:
        """Only a file of ours that nobody has edited may be there, below folders that are no links."""
        last = self._out / name
        for path in [self._out, *(self._out / parent for parent in reversed(Path(name).parents)), last]:
            if not os.path.lexists(path):
                return
            ours = name in self._before and path.is_file() and not self._is_edited(name)
            if not (ours if path == last else path.is_dir()) or (path.is_symlink() and path != self._out):
                raise FileExistsError(f"{path}: in the way, and not from an earlier export; name another folder")
        if self._names.count(name) > 1:
            raise FileExistsError(f"{last}: in the way; name another folder")


def file_name(text: str) -> str:
    """Return somebody's text as a file name without ending: letters, digits, "_", "-" and ".".

    Text that is none gets a checksum, so that no two become one; so do "index" and "glossary", pages of
    their own.
    """
    if _FILE_NAME.fullmatch(text) and text.lower() not in ("index", "glossary"):
        return text
    checksum = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return "-".join([*re.findall(r"[A-Za-z0-9_]+", text), checksum])[-120:].lstrip("-")


def _beside(name: str) -> str:
    path = Path(name)
    return str(path.with_name(f"{path.stem}.new{path.suffix}"))


def _read_manifest(out: Path) -> dict[str, str]:
    path = out / MANIFEST
    if not path.is_file():
        return {}
    files = read_json(path).get("files")
    if not isinstance(files, dict) or not all(isinstance(checksum, str) for checksum in files.values()):
        raise ValueError(f"{path}: files: expected names and checksums")
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{path}: files: expected names inside the folder, found {name!r}")
    return files
