"""What long work says of itself goes to the logger `egptlib`; commands and notebooks show it as plain lines."""

import logging
from collections.abc import Callable
from pathlib import Path


class _Lines(logging.Handler):
    def __init__(self, inside: tuple[Path, ...]) -> None:
        super().__init__()
        self.inside = inside

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        for folder in self.inside:
            line = line.replace(f"{folder}/", "")
        print(line, flush=True)  # to the sys.stdout of the moment: notebooks and tests exchange it


def show_log(*inside: Path) -> Callable[[], None]:
    """Show on standard output, from now on, what the library logs at INFO and above.

    Args:
        inside: folders that every reader of the lines knows; paths in them are shown relative to them. Those of the
            last call count.

    Returns:
        What ends it.
    """
    logger = logging.getLogger("egptlib")
    logger.setLevel(logging.INFO)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Lines)]:
        logger.removeHandler(handler)
    lines = _Lines(inside)
    logger.addHandler(lines)
    return lambda: logger.removeHandler(lines)
