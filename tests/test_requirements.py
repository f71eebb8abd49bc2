"""The tested set holds all that the library, its extras and the checks ask for: a fresh environment is whole."""

import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from egptlib._paths import project_root


@pytest.fixture(scope="module")
def root() -> Path:
    found = project_root()
    assert found is not None
    return found


def lines(file: Path) -> list[str]:
    bare = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in bare if line]


def test_every_package_asked_for_and_what_it_needs_is_in_the_lock_at_the_version_tested(root: Path) -> None:
    lock = {
        canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines(root / "requirements.lock"))
    }
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*lines(root / "requirements.txt"), *lines(root / "requirements-cluster.txt")]
    for extra in project["optional-dependencies"].values():
        asked += extra
    todo = [Requirement(line) for line in asked]
    seen: set[str] = set()
    missing = []
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if (key := str(requirement)) in seen or name == "setuptools":  # pip freeze leaves pip's own tools out
            continue
        seen.add(key)
        try:
            found = version(name)
        except PackageNotFoundError:
            found = None
        if name not in lock or (found is not None and not requirement.specifier.contains(lock[name])):
            missing.append(f"{requirement}: the lock has {lock.get(name)}")
        for line in requires(name) or [] if found is not None else []:
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            ):
                todo.append(needed)
    assert missing == []
