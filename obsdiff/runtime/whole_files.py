"""Files that appear whole: written under a new name, synced to the disk, then renamed.

The new name is random and its file is created by this process (O_EXCL), so nothing that waits
under a known name, such as a symlink, is written through. A kill leaves the file under the new
name, which `is_unfinished` recognises; a crash of the machine leaves the old file or the new one.

The permissions are those that the umask and the folder give to new files, also where a library
writes files that their owner alone can read.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = re.compile(r"\.obsdiff-[0-9a-f]{16}\.part")
CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # of file systems


def write_whole(file: Path, content: bytes | str) -> None:
    """Write a file whole: it has its former content or the new one, also after a crash.

    Args:
        file: the file; its folder exists.
        content: bytes, or text, which is written as UTF-8.

    Raises:
        OSError: it can't be written; the former file is as it was.
    """
    with whole_file(file) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Open a new empty file beside `file` that replaces it at the end, unless an error is raised.

    Args:
        file: the file; its folder exists. A symlink of this name is replaced, not followed.

    Yields:
        The path to write to.

    Raises:
        OSError: it can't be written; the former file is as it was.
    """
    beside = file.with_name(f".obsdiff-{secrets.token_hex(8)}.part")
    mode = stat.S_IMODE(created(beside).st_mode)
    try:
        yield beside
        set_mode(beside, mode)
        sync_file(beside)
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def is_unfinished(name: str) -> bool:
    """Return whether a file name is that of a file which a killed process did not finish."""
    return UNFINISHED.fullmatch(name) is not None


def remove_unfinished(folder: Path) -> None:
    """Delete the files in and below a folder that killed processes did not finish."""
    for root, _, files in os.walk(folder):
        for name in filter(is_unfinished, files):
            Path(root, name).unlink(missing_ok=True)


def created(file: Path) -> os.stat_result:
    """Create a file that does not exist, and return its status."""
    opened = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(opened)
    finally:
        os.close(opened)


def tried(folder: Path) -> os.stat_result:
    """Return the status of a file that this process made in a folder, and removed again."""
    probe = folder / f".obsdiff-{secrets.token_hex(8)}.part"
    status = created(probe)
    probe.unlink()
    return status


def owner_of_files(folder: Path) -> int:
    """Return the user id of the files that this process makes in a folder.

    It is not that of the process where a file system maps users.
    """
    return tried(folder).st_uid


def set_mode(file: Path, mode: int) -> None:
    """Give a file its permissions, unless its file system does not let them change."""
    if stat.S_IMODE(file.stat().st_mode) != mode:
        with contextlib.suppress(PermissionError):
            file.chmod(mode)


def set_modes(folder: Path) -> None:
    """Give all files in and below a folder the permissions of new files."""
    mode = stat.S_IMODE(tried(folder).st_mode)
    for root, _, files in os.walk(folder):
        for name in files:
            if not os.path.islink(file := Path(root, name)):
                set_mode(file, mode)


def sync_tree(folder: Path) -> None:
    """Sync all files and folders in and below a folder to the disk, and the folder itself.

    Call it before the folder is renamed, and `sync_folder` of the folder around it afterwards.

    Raises:
        OSError: the disk is full or broken.
    """
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            if stat.S_ISREG((file := Path(root, name)).lstat().st_mode):
                sync_file(file)
        sync_folder(Path(root))


def sync_file(file: Path) -> None:
    """Sync the content of a file to the disk, where its file system can."""
    sync(file, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk, where its file system can."""
    sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync(place: Path, flags: int) -> None:
    """Sync a path; an error of a file system that has no such call is no error."""
    opened = os.open(place, flags)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(opened)
