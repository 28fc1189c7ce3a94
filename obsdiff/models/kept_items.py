"""Which heads, neurons and channels a cut kept: recorded at the module, written as ranges.

"0-2,5" are the items 0, 1, 2 and 5 of the dense model, in this order. Imports no torch.
"""

import re
from collections.abc import Sequence
from typing import Any

ATTRIBUTE = "obsdiff_kept"  # of an owner: kind -> items of the dense model; None if unknown
SUFFIX = "_kept"  # "heads_kept" stands beside "heads", the count, in a layout
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)

Kept = list[int] | None


def record_kept_(owner: Any, kind: str, kept: Sequence[int]) -> None:
    """Record which of its current items a module keeps, as items of the dense model.

    Args:
        owner: the module that owns the group.
        kind: heads, neurons or channels; channels are counted by norm groups here.
        kept: indices among the current items.
    """
    before = kept_by(owner)
    former = before.get(kind) if kind in before else range(max(kept) + 1)
    composed = None if former is None else [former[i] for i in kept]
    set_kept_(owner, kind, composed)


def set_kept_(owner: Any, kind: str, kept: Kept) -> None:
    """Record the items of the dense model that a module has; None if unknown."""
    setattr(owner, ATTRIBUTE, kept_by(owner) | {kind: kept})


def forget_kept_(owner: Any) -> dict[str, Kept]:
    """Remove the record from a module that gets all its items back, and return the record."""
    found: dict[str, Kept] = vars(owner).pop(ATTRIBUTE, {})
    return found


def kept_by(owner: Any) -> dict[str, Kept]:
    """Return what is recorded at a module: kind -> items of the dense model, or None."""
    found: dict[str, Kept] = getattr(owner, ATTRIBUTE, {})
    return found


def as_ranges(items: Sequence[int]) -> str:
    """Return items as ranges, such as "0-2,5"."""
    runs: list[list[int]] = []
    for item in items:
        if runs and item == runs[-1][1] + 1:
            runs[-1][1] = item
        else:
            runs.append([item, item])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def items_of(text: Any, left: int, total: int) -> list[int]:
    """Return the items of ranges.

    Args:
        text: ranges, from a config.json.
        left: how many items they are.
        total: items of the dense model.

    Raises:
        ValueError: what is wrong, in words.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected ranges such as '0-2,5', found {type(text).__name__}")
    items: list[int] = []
    for part in text.split(","):
        found = RANGE.fullmatch(part)
        if not found:
            raise ValueError(f"expected ranges such as '0-2,5', found {part[:20]!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < total:
            raise ValueError(f"expected items from 0 to {total - 1}, found {part!r}")
        items += range(first, last + 1)
        if len(items) > left:
            raise ValueError(f"expected {left} items, found more")
    if len(items) < left or len(set(items)) < left:
        raise ValueError(f"expected {left} different items, found {len(set(items))}")
    return items
