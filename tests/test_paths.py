"""Files are replaced as a whole or not at all; data goes where it was asked for."""

import json
import os
from pathlib import Path

import pytest

from egptlib import _paths


def test_atomic_write_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "picture.png"
    for content in (b"first", b"second"):
        with _paths.atomic_write(path) as temporary:
            assert temporary.parent == path.parent and temporary.suffix == ".png"
            temporary.write_bytes(content)
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_an_error_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), _paths.atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), _paths.atomic_write(path):
        ...
    assert path.read_text() == "old"


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    _paths.write_json(tmp_path / "atomic.json", {})
    assert (tmp_path / "atomic.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    _paths.write_json(path, {"é": [1, 2.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, 2.5, None]}
    with pytest.raises(ValueError):
        _paths.write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, 2.5, None]}


def test_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EGPTLIB_DATA", str(tmp_path))
    assert _paths.data_root() == tmp_path
    monkeypatch.delenv("EGPTLIB_DATA")
    monkeypatch.setattr(_paths, "_PROJECT", tmp_path)  # no pyproject.toml there: an installed wheel
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert _paths.data_root() == tmp_path / "home" / ".cache" / "egptlib"
    (tmp_path / "pyproject.toml").touch()
    assert _paths.data_root() == tmp_path / "data"


@pytest.mark.parametrize("number", [str(2**63), str(-(2**63) - 1), "1" + "0" * 40, "1" * 5000])
def test_a_number_that_overflows_is_refused_where_it_is_read(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"accepted": [1, {number}]}}')
    with pytest.raises(ValueError, match=r"a\.json: .* is more than 64 bits hold"):
        _paths.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(f'{{"accepted": [{2**63 - 1}, {-(2**63)}, {2.0**80}, 1]}}')
    assert _paths.read_json(tmp_path / "a.json") == {"accepted": [2**63 - 1, -(2**63), 2.0**80, 1]}
