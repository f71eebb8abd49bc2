"""``python -m egptlib`` is the command line."""

from egptlib.cli import main

if __name__ == "__main__":  # a drafter's process imports this module again
    main()
