"""Rebuild the sample report in docs/report/ from a folder of runs: `make sample` does, after `make demo`.

One page a notebook, the newest run on `streets`, under a name that stays, with pictures of 256 colours: light enough
for a repository, and laid out for GitHub Pages from docs/.

    python docs/sample.py [RUNS]
"""

import base64
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from egptlib._paths import read_json
from egptlib.reporting import default_root, read_status, write_report

PAGES = Path(__file__).parent / "report"
WIDTH = 1200  # pixels of a picture at most
MOST = 6_000_000  # bytes of all pages


def main(root: Path) -> None:
    """Write the pages, and refuse to leave more than `MOST`."""
    runs = newest(root)
    with tempfile.TemporaryDirectory() as work:
        for name, folder in runs.items():
            shutil.copytree(folder, Path(work) / "runs" / name)
        index = write_report(Path(work) / "runs")
        pages = {page.name: lighter(page.read_text(encoding="utf-8")) for page in index.parent.glob("*.html")}
    size = sum(len(text.encode()) for text in pages.values())
    if size > MOST:
        raise SystemExit(f"{PAGES}: {size / 1e6:.1f} MB, at most {MOST / 1e6:.0f} MB are kept in a repository")
    PAGES.mkdir(exist_ok=True)
    for old in set(PAGES.glob("*.html")) - {PAGES / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    print(f"{len(pages)} pages, {size / 1e6:.1f} MB -> {PAGES}")


def newest(root: Path) -> dict[str, Path]:
    """The newest finished run of each notebook on `streets`, by the notebook's name."""
    found: dict[str, tuple[str, Path]] = {}
    for folder in sorted(root.glob("*/status.json")):
        status = read_status(folder.parent) or {}
        name, started = str(status.get("notebook")), str(status.get("started"))
        on_streets = read_json(folder.with_name("params.json")).get("dataset") == "streets"
        if status.get("state") == "done" and on_streets and started >= found.get(name, ("",))[0]:
            found[name] = (started, folder.parent)
    if not found:
        raise SystemExit(f"{root}: holds no finished run on streets; `make demo` makes them")
    return {name: folder for name, (_, folder) in sorted(found.items())}


def lighter(page: str) -> str:
    """A page with its pictures at most `WIDTH` wide and in 256 colours, where that is smaller."""

    def smaller(found: re.Match[str]) -> str:
        with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
            small = picture.convert("RGB")
        small.thumbnail((WIDTH, 10 * WIDTH))
        buffer = io.BytesIO()
        small.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        text = base64.b64encode(buffer.getvalue()).decode()
        return f"data:image/png;base64,{text}" if len(text) < len(found[1]) else found[0]

    return re.sub(r"data:image/png;base64,([A-Za-z0-9+/=\s]+?)(?=[\"'])", smaller, page)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default_root())
