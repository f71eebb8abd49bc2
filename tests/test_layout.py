"""What README says of the rooms: each imports only from rooms above it, and nobody another room's own business."""

import ast
from collections.abc import Iterator
from pathlib import Path

import egptlib

ROOT = Path(egptlib.__file__).parent
# As README lists them, top to bottom; `cli` may use all.
ABOVE = {
    "scenes": set(),
    "models": {"scenes"},
    "metrics": set(),
    "traces": {"metrics"},
    "hidden_states": {"scenes", "models", "metrics", "traces"},
    "adapters": {"scenes", "models", "metrics", "traces", "hidden_states"},
    "decoding": {"scenes", "models", "metrics", "traces", "hidden_states", "adapters"},
    "reporting": {"scenes", "models", "metrics", "traces", "hidden_states", "adapters", "decoding"},
    "documents": {"metrics"},
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _between_rooms() -> Iterator[tuple[Path, str, list[str]]]:
    """(file, its room, parts of the imported module) of every import of one room in another."""
    for path in sorted(ROOT.glob("*/*.py")):
        room = path.parent.name
        for module in _imports(path):
            parts = module.split(".")
            if parts[0] == "egptlib" and len(parts) > 1 and parts[1] != room and (ROOT / parts[1]).is_dir():
                yield path, room, parts


def test_a_room_imports_only_from_rooms_above_it() -> None:
    found = list(_between_rooms())
    assert len(found) > 100  # the walk sees the package at all
    wrong = [
        f"{p.name}: {'.'.join(parts)}" for p, room, parts in found if room != "cli" and parts[1] not in ABOVE[room]
    ]
    assert wrong == []


def test_no_room_imports_another_rooms_private_modules() -> None:
    wrong = [f"{p}: {'.'.join(parts)}" for p, _, parts in _between_rooms() if any(n.startswith("_") for n in parts)]
    assert wrong == []
