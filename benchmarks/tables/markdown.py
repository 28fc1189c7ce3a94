"""Grids, captions and cells in Markdown."""

import textwrap
from typing import Any

from obsdiff.evaluation.report.noise import near_best
from obsdiff.pipelines.removed import KINDS

WIDTH = 100  # columns of prose
SMALL = 0.02  # errors below it have one more decimal
BOLD = "Bold errors are lower than all others by the interval of the paired difference."


def grid(head: list[str], lines: list[list[str]]) -> str:
    """A table; empty cells are one blank wide."""
    return "\n".join(
        f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"
        for cells in [head, ["---"] * len(head), *lines]
    )


def caption(text: str) -> str:
    """A paragraph, wrapped."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def percent(share: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * share:.0f} %"


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as "1 thread" or "2 threads"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def change(before: float, after: float) -> str:
    """The relative change, such as "-9.1 %"."""
    return f"{100 * (after / before - 1):+.1f} %"


def interval(row: dict[str, Any], key: str, decimals: int) -> str:
    """The value at `key` with the interval from "low" to "high"."""
    value, low, high = (f"{row[name]:.{decimals}f}" for name in (key, "low", "high"))
    return f"{value} ({low} to {high})"


def errors(figures: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Cells of errors that are compared: the best is bold if it differs from all others.

    Args:
        figures: by name; a difference counts if its interval over prompts does not contain 0.
    """
    cells = {
        name: interval(figure, "value", 4 if figure["value"] < SMALL else 3)
        for name, figure in figures.items()
    }
    if len(figures) > 1 and not near_best(figures, higher_is_better=False):
        best = min(figures, key=lambda name: figures[name]["value"])
        value, _, rest = cells[best].partition(" ")
        cells[best] = f"**{value}** {rest}"
    return cells


def removed(row: dict[str, Any]) -> str:
    """What structured pruning removed, such as "8 of 20 heads, 3,072 of 10,240 neurons"."""
    return ", ".join(
        f"{row[kind]['removed']:,} of {row[kind]['total']:,} {kind}"
        for kind in KINDS
        if kind in row
    )
