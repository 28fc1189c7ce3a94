"""Overlap of outputs and inputs, whatever their paths: symlinks, `..`, hard links, bind mounts.

Files and folders are compared by device and inode: those of the output and above it, those in the
output, and those that an input has or links to.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ..errors import UserError

Identity = tuple[int, int]  # device and inode

MOST_LINKED = 100_000  # files and folders that the symlinks in an input may lead to


def check_place(output: Path, inputs: Iterable[Path]) -> None:
    """Check that an output neither is, contains nor is contained in an input.

    Args:
        output: the file or folder that will be written; need not exist.
        inputs: files and folders that are read.

    Raises:
        UserError: they overlap, or the symlinks in an input lead to too many files.
    """
    above, own = chain(output), identity(output)
    below = set(filter(None, map(identity, contents(output))))
    for place in inputs:
        for part in reachable(place):
            found = identity(part)
            if found in above or found in below or own in chain(part):
                raise UserError(
                    f"output: {output} and the input {place} overlap; "
                    "choose a folder apart from the inputs"
                )


def identity(place: Path) -> Identity | None:
    """Return device and inode of a path; None if nothing exists there."""
    with suppress(OSError, ValueError):
        found = place.stat()
        return found.st_dev, found.st_ino
    return None


def chain(place: Path) -> set[Identity]:
    """Return the identities of a path and of the folders above it, as written and as resolved."""
    ways = []
    with suppress(OSError, ValueError):  # a relative path in a working folder that is gone
        ways = [Path(os.path.abspath(place)), Path(os.path.realpath(place))]
    return {found for way in ways for p in (way, *way.parents) if (found := identity(p))}


def contents(place: Path) -> Iterator[Path]:
    """Yield everything below a folder, without following symlinks; nothing of another path."""
    if os.path.isdir(place) and not os.path.islink(place):
        for root, folders, files in os.walk(place):
            yield from (Path(root, name) for name in folders + files)


def reachable(place: Path) -> Iterator[Path]:
    """Yield an input and everything in it, and the targets of the symlinks in it.

    Raises:
        UserError: the symlinks lead to too many files.
    """
    if not os.path.exists(place):
        return
    yield place
    links = []
    for inside in contents(Path(os.path.realpath(place))):
        yield inside
        if inside.is_symlink():
            links.append(inside)
    linked = list(islice(behind(links), MOST_LINKED + 1))
    if len(linked) > MOST_LINKED:
        raise UserError(
            f"{place} has symlinks to folders with more than {MOST_LINKED} files; remove them"
        )
    yield from linked


def behind(links: list[Path]) -> Iterator[Path]:
    """Yield the targets of symlinks and everything in them, each once."""
    to_do, seen = [Path(os.path.realpath(link)) for link in links], set()
    while to_do:
        target = to_do.pop()
        if target not in seen:
            seen.add(target)
            for inside in (target, *contents(target)):
                yield inside
                if inside.is_symlink():
                    to_do.append(Path(os.path.realpath(inside)))
