"""OUTPUT.part: the folder that a run fills before it is renamed, and that --resume continues.

Temporary files are in OUTPUT.part/.work. Its job.json holds the settings that a resuming run must
share. Files appear whole: they are written under another name, then renamed.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import Timeout

from ..errors import UserError
from ..runtime.json_files import read_json, write_json
from ..runtime.locking import held_lock
from ..runtime.progress import say
from ..runtime.strict_json import as_written
from ..runtime.whole_files import is_unfinished, remove_unfinished, sync_folder, sync_tree
from .output_path import absolute, check_writable
from .overlap import check_place
from .part_owner import MARKER, PLACING, RUN_LOCK, make_part, require_own
from .replaceable import JOB, RESULTS, WORK, check_kind, check_ours

FINISHED = "new"  # the finished prunings, until all are finished
OLD = "old"  # the folder that the output replaced
CLEARING = "clearing"  # job.json of a folder that is being emptied
OWN = (WORK, FINISHED, "images", RESULTS)


def part_folder(output: Path) -> Path:
    """Return OUTPUT.part."""
    return output.with_name(output.name + ".part")


def check_output(output: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Check that a folder can be written, and replaced if it exists.

    Args:
        output: the folder to write.
        overwrite: whether it may be replaced, provided that obsdiff wrote it.
        inputs: paths that it must not overlap.

    Raises:
        UserError: it can't be written or may not be replaced.
    """
    absolute(output)
    check_kind(output)
    for place in (output, part_folder(output)):
        check_place(place, inputs)
    if os.path.lexists(output):
        if not overwrite:
            raise UserError(
                f"output: {output} exists already; choose another, "
                "or pass --overwrite to replace it"
            )
        check_ours(output, output)
    check_writable(output, part_folder(output))


@contextlib.contextmanager
def open_part(output: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> Iterator[Path]:
    """Open OUTPUT.part and lock it: a new one, or that of a killed run with the same job.

    Args:
        output: the folder to write.
        job: settings that a resuming run must share; JSON.
        resume: whether to continue a killed run.
        overwrite: whether to delete the files of a killed run.

    Yields:
        OUTPUT.part, as an absolute path.

    Raises:
        UserError: the folder belongs to a run that is alive, to a run with another job, or to
            an unknown one; or it exists and neither `resume` nor `overwrite` was given.
    """
    part = part_folder(absolute(output))
    require_own(part, resume, overwrite)
    make_part(part)
    with contextlib.ExitStack() as held:
        # the system releases the lock when the process ends, however it ends
        if not held.enter_context(run_lock(part, output)):
            say(f"{part} has no file locks: two runs into one output are not noticed there")
        begin_run(part, as_written(job), resume, overwrite)
        yield part


@contextlib.contextmanager
def run_lock(part: Path, output: Path) -> Iterator[bool]:
    """Hold the lock of OUTPUT.part; False on a file system without locks, UserError if held."""
    with contextlib.ExitStack() as held:
        try:
            locked = held.enter_context(held_lock(part / WORK / RUN_LOCK))
        except Timeout:
            raise UserError(
                f"output: another run is writing {output}; wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise UserError(f"output: {part} can't be locked: {error.strerror}") from None
        yield locked


def is_own_name(name: str) -> bool:
    """Return whether a name in OUTPUT.part is one that a run writes."""
    return name in OWN or is_unfinished(name)


def begin_run(part: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Write job.json, or compare the job with the existing one; UserError if it differs."""
    file = part / WORK / JOB
    if file.is_file() and not resume:
        if not overwrite:
            raise UserError(
                f"output: {part} is of a run that did not end; "
                "continue it with --resume, or start anew with --overwrite"
            )
        clear(part)
    if file.is_file():
        if differ := differing(read_json(file), job):
            raise UserError(
                f"output: {part} was begun with other {', '.join(differ)}; "
                "start anew with --overwrite"
            )
        remove_unfinished(part)
        return
    if resume and (part / WORK / PLACING).is_file():
        return  # the output has its name, and job.json is removed already
    if resume:
        say(f"nothing to resume: there is no {part}; starting anew")
    clear(part)  # files of a run killed before it wrote job.json
    write_json(file, job)


def differing(found: dict[str, Any], job: dict[str, Any]) -> list[str]:
    """Return the names of the entries that differ between two jobs; of versions also the values."""
    names = []
    for key, here in job.items():
        there = found.get(key)
        if there == here:
            continue
        if key == "versions" and isinstance(there, dict):
            both = {n: (there.get(n, "none"), here.get(n, "none")) for n in sorted({*there, *here})}
            values = [f"{name} {a} there, {b} here" for name, (a, b) in both.items() if a != b]
            names.append(f"{key} ({'; '.join(values)})")
        else:
            names.append(key)
    return names


def clear(part: Path) -> None:
    """Delete all files of a run but its lock; UserError if other files are among them.

    job.json is renamed first, so that a run killed meanwhile can't be resumed.
    """
    work = part / WORK
    if foreign := sorted(place.name for place in part.iterdir() if not is_own_name(place.name)):
        raise UserError(
            f"output: {part} holds {foreign[0]}, which no run of obsdiff wrote; move it away"
        )
    bring_back(part)
    if (work / JOB).exists():
        (work / JOB).replace(work / CLEARING)
    for place in (*part.iterdir(), *work.iterdir()):
        if place.is_dir() and not place.is_symlink() and place.name != WORK:
            shutil.rmtree(place)
        elif place.name not in (WORK, RUN_LOCK, PLACING, CLEARING, MARKER):
            place.unlink()
    for name in (PLACING, CLEARING):
        (work / name).unlink(missing_ok=True)


def bring_back(part: Path) -> None:
    """Give the output that a killed run had moved away its name again."""
    old, output = part / WORK / OLD, part.with_name(part.name.removesuffix(".part"))
    if old.is_dir() and not os.path.lexists(output):
        old.rename(output)


def remove(part: Path) -> None:
    """Delete all files of a run, and the folder unless it has other files."""
    if (part / FINISHED).exists():
        shutil.rmtree(part / FINISHED)
    remove_work(part / WORK, PLACING)
    with contextlib.suppress(OSError):
        part.rmdir()


def remove_work(work: Path, last: str) -> None:
    """Delete the folder .work; the file `last` and the marker after all others."""
    for place in work.iterdir():
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        elif place.name not in (last, MARKER):
            place.unlink()
    shutil.rmtree(work)


def finish(part: Path, output: Path, overwrite: bool) -> None:
    """Rename OUTPUT.part to OUTPUT.

    Args:
        part: OUTPUT.part.
        output: the folder's name.
        overwrite: whether to replace an existing folder that obsdiff wrote.

    Raises:
        UserError: the existing folder may not or can't be replaced.
    """
    output = part.with_name(output.name)  # a relative one may lead elsewhere by now
    sync_tree(part)
    put(part, output, part / WORK / OLD, overwrite)
    sync_folder(output.parent)
    remove_work(output / WORK, JOB)


def put_in_place(part: Path, output: Path, overwrite: bool) -> None:
    """Rename OUTPUT.part/new to OUTPUT and delete the rest; can be repeated after a kill.

    Args:
        part: OUTPUT.part.
        output: the folder's name.
        overwrite: whether to replace an existing folder that obsdiff wrote.

    Raises:
        UserError: the existing folder may not or can't be replaced.
    """
    output = part.with_name(output.name)  # a relative one may lead elsewhere by now
    (part / WORK / PLACING).touch()
    if (part / FINISHED).exists():
        sync_tree(part / FINISHED)
        put(part / FINISHED, output, part / WORK / OLD, overwrite)
        sync_folder(output.parent)
    remove(part)


def put(new: Path, output: Path, old: Path, overwrite: bool) -> None:
    """Rename a folder to the output; move an existing output to `old` first.

    An existing output is checked before and after its move, and moved back if it fails.

    Args:
        new: the folder to rename.
        output: its new name.
        old: where to move an existing output.
        overwrite: whether to replace an existing output that obsdiff wrote.

    Raises:
        UserError: the existing output may not or can't be replaced.
    """
    try:
        if os.path.lexists(output):
            if not overwrite:
                raise UserError(f"output: {output} has appeared meanwhile; nothing was replaced")
            check_ours(output, output)
            output.rename(old)
            check_ours(old, output)
        new.rename(output)
    except (OSError, UserError) as error:
        if os.path.lexists(old) and not os.path.lexists(output):
            old.rename(output)
        if isinstance(error, UserError):
            raise
        raise UserError(f"output: {output} can't be replaced: {error.strerror}") from None


def is_placed(output: Path) -> bool:
    """Return whether a run was killed after it renamed its output, before OUTPUT.part was gone."""
    output = absolute(output)
    part = part_folder(output)
    placing = os.path.isfile(part / WORK / PLACING)
    return placing and not os.path.exists(part / FINISHED) and os.path.exists(output)
