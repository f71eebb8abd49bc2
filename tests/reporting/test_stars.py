"""Runs are found by how their names begin, starred, listed and set side by side."""

from pathlib import Path
from typing import Any

import pytest

from egptlib._paths import write_json
from egptlib.reporting import collect
from egptlib.reporting._stars import compare_runs, find_run, overview, set_star


@pytest.fixture
def root(tmp_path: Path) -> Path:
    def write(name: str, notebook: str, metrics: dict[str, Any], **parameters: Any) -> None:
        write_json(tmp_path / name / "params.json", {"dataset": "streets", **parameters})
        write_json(tmp_path / name / "metrics.json", metrics)
        write_json(tmp_path / name / "headline.json", {"rate": f"{metrics['rate']:.0%}"})
        write_json(tmp_path / name / "status.json", {"state": "done", "notebook": notebook, "seconds": 12.4})

    write("04_x-streets-aa11", "04_x", {"rate": 0.5, "kind": "a", "curve": [1]}, gamma=3, out_dir="/a/b")
    write("04_x-streets-ab22", "04_x", {"rate": 0.75, "kind": "b", "curve": [2]}, gamma=5, out_dir="/a/b")
    write("05_y-streets-cc33", "05_y", {"rate": 0.1}, gamma=5)
    return tmp_path


def test_a_run_is_found_by_how_it_begins(root: Path) -> None:
    assert find_run(root, "05").name == "05_y-streets-cc33"
    with pytest.raises(ValueError, match="2 begin so: 04_x-streets-aa11, 04_x-streets-ab22"):
        find_run(root, "04")
    with pytest.raises(ValueError, match=r"'07' in .*: none begins so"):
        find_run(root, "07")


def test_stars_come_and_go_and_are_in_the_table(root: Path) -> None:
    set_star(find_run(root, "05"), "for the paper")
    set_star(find_run(root, "04_x-streets-aa"), "")
    assert list(collect(root)["starred"]) == [True, False, True]
    lines = overview(root, starred=True).splitlines()
    assert [line[0] for line in lines] == ["*", "*", "2"] and lines[1].endswith("# for the paper")
    set_star(find_run(root, "05"), None)
    assert list(collect(root)["starred"]) == [True, False, False]


def test_the_list_shows_what_differs_within_a_notebook(root: Path) -> None:
    lines = overview(root).splitlines()
    assert lines[0].split() == ["done", "12", "s", "04_x-streets-aa11", "gamma=3"]
    assert lines[2].split() == ["done", "12", "s", "05_y-streets-cc33"]  # one run differs in nothing
    assert overview(root, notebook="05").splitlines()[-1] == f"1 run in {root}"
    assert overview(root, notebook="06") == f"0 runs in {root}"


def test_comparison_holds_what_differs_and_no_more(root: Path) -> None:
    first, second, third = (find_run(root, name) for name in ("04_x-streets-aa", "04_x-streets-ab", "05"))
    table = compare_runs([first, second])
    assert list(table.index) == [
        ("headline", "rate"), ("params", "gamma"), ("metrics", "rate"), ("metrics", "kind"),
    ]  # fmt: skip
    assert table.loc[("metrics", "rate"), "difference"] == 0.25 and table.loc[("params", "gamma"), "difference"] == 2
    assert len(compare_runs([first, first])) == 0
    wide = compare_runs([first, second, third])
    assert list(wide.columns) == [first.name, second.name, third.name] and ("params", "out_dir") in wide.index
