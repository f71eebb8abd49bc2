"""``python -m egptlib`` is the command line."""

from egptlib.cli import main

main()
