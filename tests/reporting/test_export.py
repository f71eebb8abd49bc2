"""An export never touches what it has not written, whatever lies in the folder and however often it is repeated."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egptlib.reporting._export import MANIFEST, Export, file_name


def _export(out: Path, files: dict[str, str]) -> dict[str, str]:
    with Export(out, files) as export:
        for name, text in files.items():
            export.write(name, text)
    return export.kept


def _contents(out: Path) -> dict[str, str]:
    files = [path for path in out.rglob("*") if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(out)): path.read_text() for path in files}


def test_a_later_export_replaces_and_removes_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("mine")
    _export(tmp_path, {"index.html": "1", "figures/a.pdf": "1"})
    _export(tmp_path, {"index.html": "2", "figures/b.pdf": "2"})
    assert _contents(tmp_path) == {"index.html": "2", "figures/b.pdf": "2", "notes.html": "mine"}


@pytest.mark.parametrize("name", ["main.tex", "figures", "figures/a.pdf", "figures/a.pdf/x"])
def test_what_is_in_the_way_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(str(tmp_path / name)[: -2 if name.endswith("/x") else None])):
        _export(tmp_path, {"main.tex": "1", "figures/a.pdf": "1"})
    assert _contents(tmp_path) == {name: "mine"} and not (tmp_path / MANIFEST).exists()


def test_a_link_is_in_the_way(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").symlink_to(elsewhere)
    with pytest.raises(FileExistsError, match="figures: in the way"):
        _export(tmp_path / "out", {"figures/a.pdf": "1"})
    assert list(elsewhere.iterdir()) == []


def test_what_a_person_edited_stays_beside_the_new_one(tmp_path: Path) -> None:
    _export(tmp_path, {"main.tex": "1", "old.tex": "1"})
    (tmp_path / "main.tex").write_text("edited")
    (tmp_path / "old.tex").write_text("edited too")
    for text in ("2", "3"):
        assert _export(tmp_path, {"main.tex": text}) == {"main.tex": "main.new.tex", "old.tex": ""}
        assert _contents(tmp_path) == {"main.tex": "edited", "main.new.tex": text, "old.tex": "edited too"}
    (tmp_path / "main.new.tex").write_text("edited as well")
    with pytest.raises(FileExistsError, match=r"main\.new\.tex"):
        _export(tmp_path, {"main.tex": "4"})


def test_an_export_that_was_interrupted_is_replaced(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Export(tmp_path, ["a", "b"]) as export:
        export.write("a", "half of it")
        raise KeyboardInterrupt
    _export(tmp_path, {"b": "whole"})
    assert _contents(tmp_path) == {"b": "whole"}


@pytest.mark.parametrize("files", ['{"../victim": ""}', '{"/victim": ""}', "[]", '{"a": 1}'])
def test_a_manifest_leads_nowhere_else(tmp_path: Path, files: str) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text(f'{{"files": {files}}}')
    with pytest.raises(ValueError, match=re.escape(MANIFEST)):
        _export(tmp_path / "out", {"a": "1"})
    assert (tmp_path / "victim").read_text() == "mine"


_NAMES = st.sampled_from(["a.html", "b.html", "a.new.html", "sub/a.html"])


@given(st.lists(st.tuples(st.sampled_from(["export", "mine"]), st.sets(_NAMES, min_size=1)), max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_a_person_wrote_is_ever_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, set[str]]]
) -> None:
    out, mine = tmp_path_factory.mktemp("out"), dict[str, str]()
    for number, (who, names) in enumerate(steps):
        if who == "mine":
            for name in names:
                (out / name).parent.mkdir(exist_ok=True)
                (out / name).write_text(f"mine {number}")
                mine[name] = f"mine {number}"
        else:
            try:
                _export(out, dict.fromkeys(names, f"export {number}"))
            except FileExistsError:
                assert mine
        there = _contents(out)
        assert {name: there.get(name) for name in mine} == mine


@given(st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_a_file_name_is_harmless_and_says_which_text_it_is_of(one: str, other: str) -> None:
    name = file_name(one)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,120}", name) and name[0] not in ".-"
    assert one == other or file_name(one) != file_name(other)
    assert name == one or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}", one) or one.lower() == "index"
