"""JupyterLab in a real browser: notebooks run from their first cell to their last, and their sliders move pictures."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from egptlib.reporting import write_paper, write_report
from egptlib.reporting._lab import lab_command

from .conftest import Watch, keep_screenshot

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
_SHOWN = "jupyterapp.shell.currentWidget"
_PICTURE_AND_WORDS = """() => document.querySelector('img.widget-image').src
    + [...document.querySelectorAll('.jp-OutputArea .widget-html-content')].map(words => words.innerHTML).join()"""


def _explored() -> list[str]:
    """The notebooks that have a cell tagged `interactive`."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    tagged = [
        path for path in paths
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and "interactive" in cell.metadata.get("tags", [])
    ]  # fmt: skip
    return [path.name for path in dict.fromkeys(tagged)]


def test_the_notebooks_with_explorers_are_known() -> None:
    assert {int(name[:2]) for name in _explored()} >= {1, 2, 3, 4, 7, 8}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and token of a JupyterLab over copies of the notebooks, set to smoke mode."""
    from egptlib.scenes import open_scenes

    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for path in (folder / "notebooks").glob("*.ipynb"):
        path.write_text(path.read_text(encoding="utf-8").replace("smoke = False", "smoke = True"), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--allow-root", "--LabApp.expose_app_in_browser=True")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGPTLIB_DATA", str(folder / "data"))
        open_scenes("streets", num_sequences=2)
        patch.setenv("EGPTLIB_RUNS", str(folder / "runs"))
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        command, environment, _ = lab_command(port, folder=folder / "notebooks", open_browser=False, options=options)
        own = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "EGPT_HEADLESS")}
        with (
            open(folder / "lab.log", "wb") as log,
            subprocess.Popen(
                command, env=own | environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            ) as server,
        ):
            address, token = f"http://127.0.0.1:{port}", environment["JUPYTER_TOKEN"]
            try:
                _wait_for(f"{address}/api/status?token={token}", server)
                yield address, token
            finally:
                server.terminate()


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while True:
        assert server.poll() is None and time.monotonic() < deadline, "JupyterLab does not start"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)


def test_it_wants_a_token_and_listens_on_loopback_only(lab: tuple[str, str]) -> None:
    address, _ = lab
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{address}/api/contents", timeout=5)
    port = int(address.rsplit(":", 1)[1])
    listening = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()
    ]
    places = {
        fields[1].split(":")[0] for fields in listening if fields[1].endswith(f":{port:04X}") and fields[3] == "0A"
    }
    assert places == {"0100007F"}


def test_it_starts_at_the_start_page(chromium: "Browser", lab: tuple[str, str]) -> None:
    address, token = lab
    page = chromium.new_page()
    watch = Watch(page, address, address.replace("http", "ws"))
    page.goto(f"{address}/?token={token}")
    link = page.locator(".jp-MarkdownViewer a", has_text="01_load_models")
    link.wait_for(timeout=60_000)  # shown as a page, not as its source
    names = page.locator(".jp-MarkdownViewer table a").all_inner_texts()
    assert names == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    keep_screenshot(page, "lab-start")
    link.click()
    page.locator(".jp-NotebookPanel").wait_for(timeout=60_000)
    assert not watch.errors and not watch.requests
    page.context.close()


@pytest.mark.parametrize("name", _explored())
def test_a_notebook_runs_and_a_slider_changes_the_picture(chromium: "Browser", lab: tuple[str, str], name: str) -> None:
    address, token = lab
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    watch = Watch(page, address, address.replace("http", "ws"))
    page.goto(f"{address}/lab/tree/notebooks/{name}?token={token}&reset")
    page.wait_for_function("window.jupyterapp && jupyterapp.shell.currentWidget?.sessionContext", timeout=90_000)
    page.evaluate(f"async () => {{ await {_SHOWN}.sessionContext.ready }}")
    page.wait_for_function(f"{_SHOWN}.sessionContext.session?.kernel?.status === 'idle'", timeout=90_000)
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
    cells = _finished(page)
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    _move_a_slider(page, cells)
    keep_screenshot(page, f"lab-{name.removesuffix('.ipynb')}")
    if name.startswith("04"):
        _keep_it(page, Path(os.environ["EGPTLIB_RUNS"]) / "by_hand")
    assert not watch.errors and not watch.requests
    page.evaluate(f"async () => {{ await {_SHOWN}.sessionContext.shutdown() }}")
    page.context.close()


def _keep_it(page: "Page", kept: Path) -> None:
    """A last cell keeps the run; JupyterLab saves the notebook by itself. It is a run as any other then."""
    page.evaluate(f"() => {{ {_SHOWN}.content.activeCellIndex = {_SHOWN}.content.widgets.length - 1 }}")
    page.evaluate("() => jupyterapp.commands.execute('notebook:insert-cell-below')")
    page.evaluate(f"""() => {_SHOWN}.content.activeCell.model.sharedModel.setSource('run.keep("by_hand")')""")
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-cell') }")
    deadline = time.monotonic() + 120
    while not kept.is_dir():
        assert time.monotonic() < deadline, "the notebook was not saved"
        time.sleep(0.5)
    assert json.loads((kept / "status.json").read_text())["by hand"] == "all cells, in their order"
    assert json.loads((kept / "params.json").read_text())["smoke"] is True
    text = write_report(kept.parent).with_name("by_hand.html").read_text(encoding="utf-8")
    assert "<svg" in text or "data:image/png" in text
    assert write_paper(kept.parent, kept.parent / "paper")[1]["figures"] > 3


def _finished(page: "Page", timeout: float = 240) -> list[dict[str, Any]]:
    """Wait until every code cell has run, and return the cells."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        cells: list[dict[str, Any]] = json.loads(
            page.evaluate(f"JSON.stringify({_SHOWN}.content.model.toJSON().cells)")
        )
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        failed = [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
        idle = page.evaluate(f"{_SHOWN}.sessionContext.session?.kernel?.status") == "idle"
        if failed or (idle and all(cell["execution_count"] for cell in code)):
            return cells
        time.sleep(0.5)
    raise AssertionError("cells are still running")


def _move_a_slider(page: "Page", cells: list[dict[str, Any]]) -> None:
    """Go to the first explorer, press an arrow key on its last slider, and wait for another picture or other words."""
    index = next(
        i for i, c in enumerate(cells) if c["cell_type"] == "code" and "interactive" in c["metadata"].get("tags", [])
    )
    page.evaluate(f"async () => {{ await {_SHOWN}.content.scrollToItem({index}, 'start') }}")
    picture = page.locator("img.widget-image").first
    picture.wait_for(timeout=30_000)
    handle = page.locator(".jp-Notebook .noUi-handle").last
    before = page.evaluate(_PICTURE_AND_WORDS)  # the next sample may be another question about the same scene
    for key in ("ArrowRight", "ArrowLeft"):  # one of them is not at its end
        handle.focus()
        handle.press(key)
        try:
            page.wait_for_function(f"before => ({_PICTURE_AND_WORDS})() !== before", arg=before, timeout=8_000)
        except Exception as error:
            if key == "ArrowLeft":
                raise AssertionError("the slider changes nothing") from error
            continue
        break
    assert picture.evaluate("i => i.complete && i.naturalWidth > 300")
