"""The path of an output: made absolute once, and tried out before anything runs."""

import os
import tempfile
from pathlib import Path

from ..errors import UserError

# two levels of folders with names of 100 letters: as deep as the paths in any output
DEEPEST = ("-" * 100, "-" * 100)


def absolute(output: Path) -> Path:
    """Return an output's path from the root, whatever happens to the working folder afterwards.

    Links and `..` in the path are resolved; the last name is not, so a link of this name stays one.

    Raises:
        UserError: the path is relative and the working folder is gone, or the last name is none.
    """
    if output.name in ("", ".."):
        raise UserError(f"output: expected the name of a folder, found {str(output)!r}")
    try:
        return Path(os.path.realpath(output.parent), output.name)
    except FileNotFoundError:
        raise UserError(
            f"output: {output} can't be found, since the working folder does not exist any more; "
            "change into another folder, or pass an absolute path"
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"output: {str(output)!r} is no path: {error}") from None


def check_writable(output: Path, *others: Path) -> None:
    """Check that new files or folders of these names can be created, by creating them elsewhere.

    A new folder beside the output, which is removed again, gets the folders that are missing above
    the output, its name, and long names in it.

    Args:
        output: the file or folder that will be written; need not exist.
        others: further names beside it.

    Raises:
        UserError: a folder above it is a file or can't be written, or its file system does not
            take the name.
    """
    require_utf8(output)
    output = absolute(output)
    missing: list[str] = []
    parent = output.parent
    while not os.path.lexists(parent):
        missing.insert(0, parent.name)
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"output: {output} can't be written: {parent} is a file")
    try:
        with tempfile.TemporaryDirectory(prefix=".obsdiff-", dir=parent) as probe:
            for name in (output.name, *(other.name for other in others)):
                Path(probe, *missing, name, *DEEPEST).mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"output: {shortened(output)} can't be written: {error.strerror} in {shortened(parent)}"
        ) from None


def require_utf8(output: Path) -> None:
    """Check that a path can be written in UTF-8; UserError if not."""
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"output: expected a path in UTF-8, found {str(output)!a}; choose another name"
        ) from None
    if "\0" in str(output):
        raise UserError(f"output: expected a path, found {str(output)!r} with a NUL character")


def shortened(path: Path, longest: int = 300) -> str:
    """Return a path as text, without its middle if it is long."""
    text = str(path)
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"
