"""Runs side by side: what varies, what the headlines say, and a figure that fits what varies."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from egptlib._paths import write_json
from egptlib.reporting import write_report
from egptlib.reporting._summary import in_order, quantity, summarize
from egptlib.reporting._sweep import Grid, plan_sweep

from .conftest import NotebookMaker


def _write(folder: Path, headline: dict[str, Any], state: str = "done", **parameters: Any) -> Path:
    write_json(folder / "params.json", {"dataset": "streets", "pair": "mini", **parameters})
    write_json(folder / "headline.json", headline)
    write_json(folder / "status.json", {"state": state, "notebook": "04_x", "seconds": 3.2})
    return folder


@pytest.mark.parametrize(
    ("value", "expected"),
    [("91.1%", (91.1, "%")), ("1,234.5 MiB", (1234.5, "MiB")), (3, (3.0, "")), ("1.3x", (1.3, "x")), (True, None),
     ("5 of 7", None), ("none", None), (None, None)],
)  # fmt: skip
def test_headlines_are_read_as_quantities(value: Any, expected: Any) -> None:
    assert quantity(value) == expected


def test_a_swept_number_becomes_an_axis_and_the_rest_lines(tmp_path: Path) -> None:
    runs = [
        _write(
            tmp_path / f"{dataset}{gamma}",
            {"tokens": gamma * 1.5, "same": 1, "text": "many"},
            dataset=dataset,
            gamma=gamma,
        )
        for dataset in ("clips", "streets")
        for gamma in (1, 2, 4)
    ]
    runs.append(_write(tmp_path / "zfailed", {}, "failed"))
    (summary,) = summarize(runs)
    assert summary.columns == ["dataset", "gamma", "tokens", "same", "text", "took"]
    assert summary.rows[1] == ("clips2.html", "", ["clips", "2", "3", "1", "many", "3 s"]) and len(summary.rows) == 6
    assert summary.figure is not None
    (axes,) = summary.figure.axes
    assert axes.get_title(loc="left") == "tokens" and axes.get_xlabel() == "gamma"
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}  # type: ignore[arg-type]
    assert lines == {f"dataset {d}": ([1, 2, 4], [1.5, 3, 6]) for d in ("clips", "streets")}


def test_names_become_rows_and_one_run_has_no_figure(tmp_path: Path) -> None:
    one = _write(tmp_path / "a", {"rate": "90.0%", "time": "3 ms"}, dataset="/data/500ms")
    two = _write(tmp_path / "b", {"rate": "80.0%"}, dataset="clips")
    (summary,) = summarize([one, two])
    assert summary.figure is not None and [a.get_title(loc="left") for a in summary.figure.axes] == ["rate (%)"]
    assert [t.get_text() for t in summary.figure.axes[0].get_yticklabels()] == ["500ms", "clips"]
    assert summarize([one])[0].figure is None


def test_long_names_stand_beside_one_another(tmp_path: Path) -> None:
    figures = {"mean cosine, target's path": 0.1, "equal tokens (exact)": "90%", "accepted prefix, tokens": 4, "n": 60}
    for name, more in (("a", 1), ("b", 2)):
        own = {key: f"{more}%" if key.startswith("equal") else more for key in figures}
        _write(tmp_path / name, own, dataset="streets", smoke=more == 1)
    (summary,) = summarize([tmp_path / "a", tmp_path / "b"])
    assert summary.figure is not None
    FigureCanvasAgg(summary.figure).draw()
    boxes = [axes._left_title.get_window_extent() for axes in summary.figure.axes]  # type: ignore[attr-defined]
    assert len(boxes) == 4 and all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert [t.get_text() for t in summary.figure.axes[0].get_yticklabels()] == ["smoke", "no smoke"]


def test_runs_stand_in_the_order_of_what_varies(tmp_path: Path) -> None:
    for name, (dataset, gamma) in zip("abcd", [("streets", 10), ("clips", 3), ("streets", 9), ("clips", 20)]):
        _write(tmp_path / name, {}, dataset=dataset, gamma=gamma)
    assert [folder.name for folder in in_order(sorted(tmp_path.iterdir()))] == ["b", "d", "c", "a"]
    index = write_report(tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'class="varies">(.*?)<', index) == ["gamma 3", "gamma 20", "gamma 9", "gamma 10"]


def test_cards_of_a_sweep_stand_in_the_order_of_its_grid(make_notebook: NotebookMaker, tmp_path: Path) -> None:
    toy = make_notebook("05_toy", parameters='gamma = 1\nrule = "a"\ndataset = "streets"\nout = ""')
    grid = Grid((str(toy),), {}, {"rule": ["top", "deferral"], "gamma": [2, 10]})
    for n, job in enumerate(plan_sweep(grid)):
        folder = tmp_path / "runs" / job.name
        write_json(folder / "params.json", dict(job.parameters))
        status = {"state": "done", "notebook": "05_toy", "seconds": 1.0, "started": f"2026-01-0{n + 1}"}
        write_json(folder / "status.json", status)
    index = write_report(tmp_path / "runs").read_text(encoding="utf-8")
    wanted = [f"rule {rule}, gamma {gamma}" for rule in ("top", "deferral") for gamma in (2, 10)]
    assert re.findall(r'class="varies">(.*?)<', index) == wanted
