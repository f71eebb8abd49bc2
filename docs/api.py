"""Writes the API pages, which open offline, with the sample report as their gallery: python docs/api.py FOLDER."""

import shutil
import sys
from importlib import import_module
from pathlib import Path

import pdoc

import egptlib

root, out = Path(egptlib.__file__).parent, Path(sys.argv[1])
rooms = sorted(f"egptlib.{path.parent.name}" for path in root.glob("*/__init__.py") if path.parent.name != "cli")
for room in map(import_module, ["egptlib", *rooms]):
    for name in room.__all__:  # pdoc takes a name that is not loaded yet for a module
        setattr(room, name, getattr(room, name))
gallery = "[What the notebooks show](gallery/index.html), [glossary](gallery/glossary.html)"
egptlib.__doc__ = f"{egptlib.__doc__}\n\n{gallery}"
pdoc.render.configure(docformat="google", footer_text=f"egptlib {egptlib.__version__}")
pdoc.pdoc("egptlib", *rooms, output_directory=out)
shutil.copytree(Path(__file__).parent / "report", out / "gallery", dirs_exist_ok=True)
print(f"{len(rooms) + 1} pages -> {out}/index.html")
