"""The command line: the library's verbs from a shell, one module a room.

Each verb imports what it needs when it is called, so that `--help` is quick.
"""

from egptlib.cli import (  # noqa: F401  (each registers its verbs)
    _adapters,
    _documents,
    _hidden_states,
    _measuring,
    _models,
    _prediction,
    _reporting,
    _scenes,
    _traces,
)
from egptlib.cli._app import app, main

__all__ = ["app", "main"]
