"""What README says of the rooms: each imports only from rooms above it, and nobody another room's own business."""

import ast
from collections.abc import Iterator
from pathlib import Path

import egptlib

ROOT = Path(egptlib.__file__).parent
# As README lists them, top to bottom, with the rooms each one uses; `cli` may use all.
USES = {
    "scenes": set(),
    "models": {"scenes"},
    "metrics": set(),
    "traces": {"metrics"},
    "recorded": {"metrics", "traces"},
    "hidden_states": {"scenes", "models", "traces"},
    "adapters": {"scenes", "models", "metrics", "hidden_states"},
    "decoding": {"scenes", "models", "metrics", "adapters"},
    "rehearsal": {"scenes", "models", "metrics", "adapters", "hidden_states", "decoding"},
    "measuring": {"scenes", "models", "metrics", "hidden_states", "decoding"},
    "figures": {"scenes", "metrics"},
    "reporting": {"figures"},
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
    for path in sorted(ROOT.glob("*/**/*.py")):
        room = path.relative_to(ROOT).parts[0]
        for module in _imports(path):
            parts = module.split(".")
            if parts[0] == "egptlib" and len(parts) > 1 and parts[1] != room and (ROOT / parts[1]).is_dir():
                yield path, room, parts


def test_the_map_shows_every_room_in_an_order_that_data_flows() -> None:
    rooms = [path.parent.name for path in sorted(ROOT.glob("*/__init__.py")) if path.parent.name != "cli"]
    assert rooms == sorted(USES)
    seen: set[str] = set()
    for room, uses in USES.items():
        assert uses <= seen, room
        seen.add(room)


def test_a_room_uses_the_rooms_the_map_says_and_no_other() -> None:
    used: dict[str, set[str]] = {room: set() for room in USES}
    for _, room, parts in _between_rooms():
        if room != "cli":
            used[room].add(parts[1])
    assert used == USES


def test_no_room_imports_another_rooms_private_modules() -> None:
    wrong = [f"{p}: {'.'.join(parts)}" for p, _, parts in _between_rooms() if any(n.startswith("_") for n in parts)]
    assert wrong == []


def test_no_function_takes_over_eight_arguments() -> None:
    """More go into a settings object, or are taken by name as a room's `Options`; verbs have an option each."""
    alone = {"train_language"}  # both trainings of small pairs call it, nobody else
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in ROOT.glob("**/*.py")
        if "cli" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name not in alone
        if sum(a.arg not in ("self", "cls") for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))
        > 8
    ]
    assert long == []
