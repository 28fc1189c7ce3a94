"""Outputs lie apart from inputs, however the paths are spelled: symlinks, `..`, bind mounts. Folders are compared by device and inode."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import UserError

Identity = tuple[int, int]


def check_place(output: Path, inputs: Iterable[Path]) -> None:
    """UserError if the output is an input, lies in one or holds one, however the paths are spelled."""
    above, own = chain(output), identity(output)
    for place in inputs:
        for part in reachable(place):
            if identity(part) in above or own in chain(part):
                raise UserError(
                    f"output: {output} and the input {place} lie in one another; choose a folder apart from the inputs"
                )


def identity(place: Path) -> Identity | None:
    """Device and inode; None for a path that leads to nothing."""
    with suppress(OSError):
        found = place.stat()
        return found.st_dev, found.st_ino
    return None


def chain(place: Path) -> set[Identity]:
    """Identities of a path and of the folders above it, as it is spelled and as it resolves."""
    ways = {Path(os.path.abspath(place)), Path(os.path.realpath(place))}
    return {found for way in ways for p in (way, *way.parents) if (found := identity(p))}


def reachable(place: Path) -> Iterator[Path]:
    """An input that exists, and the targets of the symlinks in it."""
    to_do, seen = [place], set()
    while to_do:
        place = to_do.pop()
        if identity(place) not in seen | {None}:
            seen.add(identity(place))
            yield place
            for root, folders, files in os.walk(place):
                to_do += [Path(root, n) for n in folders + files if os.path.islink(f"{root}/{n}")]
