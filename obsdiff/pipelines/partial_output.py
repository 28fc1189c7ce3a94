"""The folder that a long run fills before its output gets its name: OUTPUT.part, from which a killed run goes on.

What only the work needs lies in OUTPUT.part/.work, job.json among it: the settings that have to be the same for a run to go
on. Files appear whole: written beside, then renamed.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import UserError
from ..runtime.json_files import read_json, write_json
from ..runtime.progress import say
from .overlap import check_place
from .replaceable import JOB, RESULTS, WORK, check_kind, check_ours

RUN_LOCK = "lock"
PLACING = "placing"  # there as soon as the output is whole, and on the way to its place
FINISHED = "new"  # what a pruning has finished lies here until all of it is
OLD = "old"  # what had the output's name
CLEARING = "clearing"  # the job of a folder that is being emptied
UNTOLD = (RUN_LOCK, JOB + ".part")  # files of a run that has not written its job down
OWN = (WORK, FINISHED, "images", RESULTS, RESULTS + ".part")


def check_output(output: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """UserError unless `output` can be made, apart from the inputs, and, if it exists, may be replaced."""
    if output.name in ("", ".."):
        raise UserError(f"output: expected the name of a folder, found {str(output)!r}")
    check_kind(output)
    for place in (output, output.with_name(output.name + ".part")):
        check_place(place, inputs)
    if os.path.lexists(output):
        if not overwrite:
            raise UserError(
                f"output: {output} exists already; choose another, or give --overwrite to replace it"
            )
        check_ours(output, output)
    check_writable(output)


def check_writable(output: Path) -> None:
    """UserError unless a new file or folder can be made where `output` is to be."""
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"output: {output} can't be written: {parent} is a file")
    try:
        Path(tempfile.mkdtemp(prefix=".obsdiff-", dir=parent)).rmdir()
    except OSError as error:
        raise UserError(
            f"output: {output} can't be written: {error.strerror} in {parent}"
        ) from None


@contextlib.contextmanager
def open_part(output: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> Iterator[Path]:
    """OUTPUT.part, while no other run has it: a new one, or a killed run's with the same job. UserError if there is one and `resume`
    was not given, and if a run that is alive writes into it."""
    part = output.with_name(output.name + ".part")
    require_own(part, resume, overwrite)
    (part / WORK).mkdir(parents=True, exist_ok=True)
    lock = FileLock(
        part / WORK / RUN_LOCK, blocking=False
    )  # the system lets go of it when the process ends, however it ends
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"output: another run is writing {output}; wait for it, or choose another folder"
        ) from None
    with lock:
        begin_run(part, json.loads(json.dumps(job)), resume, overwrite)
        yield part


def require_own(part: Path, resume: bool, overwrite: bool) -> None:
    """UserError for what is in the way and no run of ours made."""
    if os.path.lexists(part) and not is_own(part):
        if resume:
            raise UserError(
                f"output: {part} has no {WORK}/{JOB}, so no run can go on from it; move it away, or leave out --resume"
            )
        to_do = (
            "move it away"
            if overwrite
            else "move it away, it is nothing that --resume could go on from"
        )
        raise UserError(f"output: {part} is in the way, and no run of obsdiff made it; {to_do}")


def is_own(part: Path) -> bool:
    """Whether a run made the folder: it has a job, or nothing in it yet."""
    work = part / WORK
    links = any(place.is_symlink() for place in (part, work, work / RUN_LOCK))
    if links or not work.is_dir() or os.path.ismount(part):
        return False
    files = [Path(root, name) for root, _, names in os.walk(part) for name in names]
    begun = any((work / name).is_file() for name in (JOB, CLEARING, PLACING))
    return begun or all(file.parent == work and file.name in UNTOLD for file in files)


def begin_run(part: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Write the job down, or find it written."""
    file = part / WORK / JOB
    if file.is_file() and not resume:
        if not overwrite:
            raise UserError(
                f"output: {part} is there from a run that did not end; go on with --resume, or start anew with --overwrite"
            )
        clear(part)
    if file.is_file():
        found = read_json(file)
        differ = [key for key in job if found.get(key) != job[key]]
        if differ:
            raise UserError(
                f"output: {part} was begun with other {', '.join(differ)}; start anew with --overwrite"
            )
        return
    if resume and (part / WORK / PLACING).is_file():
        return  # the output is at its place, and the job is removed already
    if resume:
        say(f"nothing to go on from: there is no {part}; starting anew")
    clear(part)  # killed before the job was written down
    write_json(file, job)


def clear(part: Path) -> None:
    """Remove everything but the lock; the job first, so that a run killed meanwhile leaves none. UserError for what no run wrote."""
    work = part / WORK
    if foreign := sorted(place.name for place in part.iterdir() if place.name not in OWN):
        raise UserError(
            f"output: {part} holds {foreign[0]}, which no run of obsdiff wrote; move it away"
        )
    if (work / JOB).exists():
        (work / JOB).replace(work / CLEARING)
    for place in (*part.iterdir(), *work.iterdir()):
        if place.is_dir() and not place.is_symlink() and place.name != WORK:
            shutil.rmtree(place)
        elif place.name not in (WORK, RUN_LOCK, PLACING, CLEARING):
            place.unlink()
    for name in (PLACING, CLEARING):
        (work / name).unlink(missing_ok=True)


def remove(part: Path) -> None:
    """Remove the folder with all that a run wrote; what somebody else put there stays, and the folder with it."""
    if (part / FINISHED).exists():
        shutil.rmtree(part / FINISHED)
    remove_work(part / WORK, PLACING)
    with contextlib.suppress(OSError):
        part.rmdir()


def remove_work(work: Path, last: str) -> None:
    """Remove the folder, and the file that tells what it is of at last."""
    for place in work.iterdir():
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        elif place.name != last:
            place.unlink()
    shutil.rmtree(work)


def finish(part: Path, output: Path, overwrite: bool) -> None:
    """Give the folder its name, in the place of what was there."""
    put(part, output, part / WORK / OLD, overwrite)
    remove_work(output / WORK, JOB)


def put_in_place(part: Path, output: Path, overwrite: bool) -> None:
    """Give OUTPUT.part/new the output's name, in the place of what was there, and remove the rest. Killed at any moment it can be
    called again."""
    (part / WORK / PLACING).touch()
    if (part / FINISHED).exists():
        put(part / FINISHED, output, part / WORK / OLD, overwrite)
    remove(part)


def put(new: Path, output: Path, old: Path, overwrite: bool) -> None:
    """Rename a folder to the output. What has that name goes to `old`, and is looked at again there; UserError, and it goes back, if it
    may not be replaced."""
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
    """Whether a run was killed when its output had its name already, and OUTPUT.part was still to be removed."""
    part = output.with_name(output.name + ".part")
    return (part / WORK / PLACING).is_file() and not (part / FINISHED).exists() and output.exists()
