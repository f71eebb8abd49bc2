"""The sample report: light pages under names that stay, from the newest run of each notebook."""

import base64
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from egptlib._paths import write_json

NOTEBOOKS = sorted(path.stem for path in (Path(__file__).parents[2] / "notebooks").glob("0*.ipynb"))


@pytest.fixture
def sample(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("sample", repository / "docs" / "sample.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAGES", tmp_path / "report")
    return module


def _write_run(folder: Path, notebook: str, started: str, dataset: str = "streets", state: str = "done") -> None:
    write_json(folder / "params.json", {"dataset": dataset})
    write_json(folder / "headline.json", {"made": started})
    write_json(folder / "status.json", {"state": state, "notebook": notebook, "seconds": 1.0, "started": started})


def test_it_has_the_newest_run_of_each_notebook_under_its_name(sample: Any, tmp_path: Path) -> None:
    for i, made in enumerate([("01_a", "2026-01-02"), ("01_a", "2026-01-01"), ("02_b", "2026-01-03")]):
        _write_run(tmp_path / f"runs/{i}", *made)
    _write_run(tmp_path / "runs/clips", "01_a", "2026-02-01", dataset="clips")
    _write_run(tmp_path / "runs/failed", "02_b", "2026-02-01", state="failed")
    (tmp_path / "report").mkdir()
    (tmp_path / "report/00_gone.html").write_text("of an earlier sample")
    sample.main(tmp_path / "runs")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "01_a.html",
        "02_b.html",
        "glossary.html",
        "index.html",
    ]
    index = (tmp_path / "report/index.html").read_text()
    assert re.findall(r'<a class="card done" href="([^"]*)">', index) == ["01_a.html", "02_b.html"]
    assert "2026-01-02" in index and "2026-01-01" not in index
    with pytest.raises(SystemExit, match="make demo"):
        sample.main(tmp_path / "report")


def test_pictures_are_made_light_and_a_heavy_sample_is_refused(sample: Any, tmp_path: Path, monkeypatch: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 2400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    page = f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"> and words'
    small = sample.lighter(page)
    found = re.fullmatch(r'<img src="data:image/png;base64,([^"]*)"> and words', small)
    assert found and len(small) < len(page) / 3
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        assert picture.size == (1200, 45) and picture.mode == "P"
    _write_run(tmp_path / "runs/1", "01_a", "2026-01-01")
    monkeypatch.setattr(sample, "MOST", 1000)
    with pytest.raises(SystemExit, match="at most 0 MB"):
        sample.main(tmp_path / "runs")
    assert not (tmp_path / "report").exists()


def test_the_committed_pages_are_those_of_the_notebooks(repository: Path) -> None:
    pages = {path.stem: path for path in (repository / "docs/report").glob("*.html")}
    if not pages:
        pytest.skip("no sample report: `make demo`, then `make sample`")
    assert sorted(pages) == [*NOTEBOOKS, "glossary", "index"]
    assert sum(path.stat().st_size for path in pages.values()) < 6_000_000
    assert ", smoke" not in pages["index"].read_text(encoding="utf-8")
    for path in pages.values():
        assert not re.search(r"<th[^>]*>[^<]*_", path.read_text(encoding="utf-8")), path.name
