"""Rewrite the tables of measured figures in README.md, docs/measurements.md and docs/measured.md.

    python -m benchmarks.tables            # writes the pages
    python -m benchmarks.tables --check    # writes nothing; ends with 1 if a page would change

A table is the block between <!-- table: NAME --> and <!-- end of table -->. Its figures are read
from benchmarks/results/. A block that was not measured is left as it is, and the command that
measures it is printed to stderr. Nothing is measured here.
"""

import argparse
import sys
from pathlib import Path

from obsdiff import UserError

from .pages import changed_pages

ROOT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(arguments).check
    try:
        pages, missing = changed_pages(root)
    except UserError as error:
        parser.error(str(error))
    for name, why in missing.items():
        print(f"{name}: {why}", file=sys.stderr)
    for page, content in pages.items():
        print(f"{page.relative_to(root)}: {'would change' if check else 'written'}")
        if not check:
            page.write_bytes(content)
    return int(check and bool(pages))


if __name__ == "__main__":
    sys.exit(main())
