"""Overlap of outputs and inputs, whatever their paths: symlinks, `..`, bind mounts.

Folders are compared by device and inode.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import UserError

Identity = tuple[int, int]  # device and inode


def check_place(output: Path, inputs: Iterable[Path]) -> None:
    """Check that an output neither is, contains nor is contained in an input.

    Args:
        output: the file or folder that will be written; need not exist.
        inputs: files and folders that are read.

    Raises:
        UserError: they overlap.
    """
    above, own = chain(output), identity(output)
    for place in inputs:
        for part in reachable(place):
            if identity(part) in above or own in chain(part):
                raise UserError(
                    f"output: {output} and the input {place} overlap; "
                    "choose a folder apart from the inputs"
                )


def identity(place: Path) -> Identity | None:
    """Return device and inode of a path; None if nothing exists there."""
    with suppress(OSError):
        found = place.stat()
        return found.st_dev, found.st_ino
    return None


def chain(place: Path) -> set[Identity]:
    """Return the identities of a path and of the folders above it, as written and as resolved."""
    ways = {Path(os.path.abspath(place)), Path(os.path.realpath(place))}
    return {found for way in ways for p in (way, *way.parents) if (found := identity(p))}


def reachable(place: Path) -> Iterator[Path]:
    """Yield an existing input, and the targets of the symlinks in it."""
    to_do: list[Path] = [place]
    seen: set[Identity | None] = set()
    while to_do:
        place = to_do.pop()
        if identity(place) not in seen | {None}:
            seen.add(identity(place))
            yield place
            for root, folders, files in os.walk(place):
                to_do += [Path(root, n) for n in folders + files if os.path.islink(f"{root}/{n}")]
