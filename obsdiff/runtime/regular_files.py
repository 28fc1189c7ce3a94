"""Regular files alone: a pipe or a device in the place of a file would be waited for without end.

Links are followed, since the cache of the hub consists of links. Imports no torch.
"""

import os
import stat
from pathlib import Path

from ..errors import UserError

READ_ENDINGS = (".json", ".txt", ".model", ".jinja")  # of the files that libraries read
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_regular(file: Path) -> os.stat_result:
    """Check that a path leads to a regular file that this process may read.

    Args:
        file: the path; links are followed.

    Returns:
        The status of the file.

    Raises:
        UserError: it leads to nothing, to something else than a file, or may not be read.
    """
    try:
        found = file.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} {why_unreachable(file, error)}") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{file}: expected a file, found {kind_of(found.st_mode)}")
    if not os.access(file, os.R_OK):
        raise UserError(f"{file} can't be read: no permission; change its mode or owner")
    return found


def require_regular_inside(folder: Path) -> None:
    """Check a folder, and those in it, that libraries read by names that they choose.

    Pipes, sockets and devices are refused, whatever their names, and so are the names of files that
    libraries read where something else or nothing is. Other dangling links are left alone.

    Args:
        folder: the folder; links in it are followed, but not into other folders.

    Raises:
        UserError: the first path that is refused.
    """
    for root, folders, files in os.walk(folder, onerror=refuse_folder):
        for name in sorted(folders + files):
            path = Path(root, name)
            if is_special(path) or name.endswith(READ_ENDINGS):
                require_regular(path)


def refuse_folder(error: OSError) -> None:
    """Turn an error in listing a folder into a UserError."""
    raise UserError(f"{error.filename} can't be read: {error.strerror}")


def is_special(file: Path) -> bool:
    """Return whether a path leads to a pipe, a socket or a device."""
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def why_unreachable(file: Path, error: Exception) -> str:
    """Return the words for a path whose status can't be read."""
    if isinstance(error, FileNotFoundError):
        if file.is_symlink():
            return f"is a link to {os.readlink(file)}, where nothing is; fetch the file again"
        return "is missing"
    return f"can't be read: {getattr(error, 'strerror', None) or error}"


def kind_of(mode: int) -> str:
    """Return the words for a mode that is no regular file's."""
    return next((words for test, words in KINDS if test(mode)), "something else")
