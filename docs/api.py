"""Writes the API pages, which open offline: python docs/api.py FOLDER."""

import sys
from importlib import import_module
from pathlib import Path

import pdoc

import egptlib

root = Path(egptlib.__file__).parent
rooms = sorted(f"egptlib.{path.parent.name}" for path in root.glob("*/__init__.py") if path.parent.name != "cli")
for room in map(import_module, ["egptlib", *rooms]):
    for name in room.__all__:  # pdoc takes a name that is not loaded yet for a module
        setattr(room, name, getattr(room, name))
pdoc.render.configure(docformat="google", footer_text=f"egptlib {egptlib.__version__}")
pdoc.pdoc("egptlib", *rooms, output_directory=Path(sys.argv[1]))
print(f"{len(rooms) + 1} pages -> {sys.argv[1]}/index.html")
