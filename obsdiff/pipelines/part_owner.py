"""Whether OUTPUT.part is a folder that obsdiff made: by a marker in it, its owner and no link."""

import os
import stat
from pathlib import Path

from ..errors import UserError
from ..runtime.whole_files import is_unfinished, owner_of_files, write_whole
from .replaceable import JOB, WORK, mounted

RUN_LOCK = "lock"
PLACING = "placing"  # exists from the moment the output is whole until it has its name
MARKER = "made-by-obsdiff"  # file in .work without which nothing in the folder is deleted
MARK = "An unfinished output of obsdiff: --resume continues it.\n"  # its content
FOLDERS = (WORK, "new", "images")  # which are never links


def make_part(part: Path) -> None:
    """Make OUTPUT.part with its marker, or only what is missing of it.

    Raises:
        UserError: it can't be written.
    """
    work = part / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        if not is_marked(work):
            write_whole(work / MARKER, MARK)
    except OSError as error:
        raise UserError(f"output: {part} can't be written: {error.strerror}") from None


def require_own(part: Path, resume: bool, overwrite: bool) -> None:
    """Check that an existing OUTPUT.part was made by obsdiff; UserError if not."""
    try:
        foreign = os.path.lexists(part) and not is_own(part)
    except OSError as error:
        raise UserError(f"output: {error.filename} can't be used: {error.strerror}") from None
    if foreign:
        if resume:
            raise UserError(
                f"output: {part} has no {WORK}/{JOB} of obsdiff, so no run can resume it; "
                "move it away, or leave out --resume"
            )
        to_do = "move it away" if overwrite else "move it away, since --resume can't continue it"
        raise UserError(f"output: {part} is in the way, and no run of obsdiff made it; {to_do}")


def is_own(part: Path) -> bool:
    """Return whether a run made the folder: it has the marker, or nothing in it yet."""
    work = part / WORK
    links = (*(part / name for name in FOLDERS), part, work / RUN_LOCK)
    if any(place.is_symlink() for place in links) or not work.is_dir() or mounted(part):
        return False
    owner = owner_of_files(part.parent)
    if any(place.stat().st_uid != owner for place in (part, work)):
        return False
    return is_marked(work) or all(is_empty_run(file, work) for file in files_below(part))


def is_marked(work: Path) -> bool:
    """Return whether a folder .work has the marker of obsdiff."""
    marker = work / MARKER
    if not os.path.lexists(marker) or not stat.S_ISREG(marker.lstat().st_mode):
        return False
    return marker.stat().st_size == len(MARK) and marker.read_text(encoding="utf-8") == MARK


def is_empty_run(file: Path, work: Path) -> bool:
    """Return whether a file is one of a run that was killed as it began, or as it ended."""
    return file.parent == work and (file.name in (RUN_LOCK, PLACING) or is_unfinished(file.name))


def files_below(folder: Path) -> list[Path]:
    """Return everything in and below a folder that is no folder, links to folders included."""
    places = [Path(root, n) for root, folders, files in os.walk(folder) for n in folders + files]
    return [place for place in places if place.is_symlink() or not place.is_dir()]
