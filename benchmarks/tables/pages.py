"""The pages with tables of measured figures, and the function that makes each table."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from obsdiff import UserError

from .blocks import rewritten
from .demo import demo, which_pruning
from .measured import measured
from .quality import quality as time_to_quality
from .results import results
from .speed import pruning_cost
from .stored import NotMeasured
from .structured import block_speed, quality, solve, speed

PAGES = ("README.md", "docs/measurements.md", "docs/measured.md")
TABLES: dict[str, Callable[[Path], str]] = {  # of the folder of the stored figures
    "which-pruning": which_pruning,
    "results": results,
    "demo": demo,
    "time-to-quality": time_to_quality,
    "pruning-cost": pruning_cost,
    "structured-quality": quality,
    "structured-speed": speed,
    "block-speed": block_speed,
    "structured-solve": solve,
    "measured": measured,
}


def changed_pages(root: Path) -> tuple[dict[Path, bytes], dict[str, NotMeasured]]:
    """Make the tables of all pages anew, without writing.

    Args:
        root: of the repository; the figures are in its benchmarks/results.

    Returns:
        The new content of the pages that change, and the tables that were not measured.

    Raises:
        UserError: a page has a block of an unknown name, or comments that do not match.
    """
    tables = {
        name: partial(table, root / "benchmarks" / "results") for name, table in TABLES.items()
    }
    pages: dict[Path, bytes] = {}
    missing: dict[str, NotMeasured] = {}
    for page in PAGES:
        before = (root / page).read_bytes()
        try:
            text, left = rewritten(before.decode("utf-8"), tables)
        except UserError as error:
            raise UserError(f"{page}: {error}") from None
        missing |= left
        if (after := text.encode("utf-8")) != before:
            pages[root / page] = after
    return pages, missing
