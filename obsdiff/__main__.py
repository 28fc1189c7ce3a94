"""Entry point of the command line: `python -m obsdiff`, or `obsdiff`."""

import sys

from .cli.main import main


def run() -> None:
    """Run the command line on sys.argv and exit with its code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
