"""The command line's entry: python -m obsdiff, or obsdiff."""

import sys

from .cli.main import main


def run() -> None:
    sys.exit(main())


if __name__ == "__main__":
    run()
