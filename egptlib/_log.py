"""What long work says of itself goes to the logger `egptlib`; commands and notebooks show it as plain lines."""

import logging


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)  # to the sys.stdout of the moment: notebooks and tests exchange it


def show_log() -> None:
    """Show on standard output, from now on, what the library logs at INFO and above. May be called twice."""
    logger = logging.getLogger("egptlib")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
