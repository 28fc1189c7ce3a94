"""The folder that a long run fills before its output gets its name: OUTPUT.part, from which a killed run goes on.

What only the work needs lies in OUTPUT.part/.work, job.json among it: the settings that have to be the same for a run to go
on. Files appear whole: written beside, then renamed.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import UserError
from .progress import say
from .stored import read_json

WORK = ".work"
JOB = "job.json"
LOCK = "lock"
PLACING = "placing"  # there as soon as the output is whole, and on the way to its place
NEW = "new"  # what a pruning has finished lies here until all of it is


def check_place(output: Path, inputs: list[Path]) -> None:
    """UserError if the output is one of the input folders, inside one or around one: replacing it would take the models along."""
    place = output.resolve()
    for folder in inputs:
        other = folder.resolve()
        if place == other or place in other.parents or other in place.parents:
            raise UserError(
                f"output: {output} and the model {folder} lie in one another; choose a folder apart from the models"
            )


@contextlib.contextmanager
def open_part(output: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> Iterator[Path]:
    """OUTPUT.part, while no other run has it: a new one, or a killed run's with the same job. UserError if there is one and `resume`
    was not given, and if a run that is alive writes into it."""
    part = output.with_name(output.name + ".part")
    require_own(part, resume, overwrite)
    (part / WORK).mkdir(parents=True, exist_ok=True)
    lock = FileLock(
        part / WORK / LOCK, blocking=False
    )  # the system lets go of it when the process ends, however it ends
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"output: another run is writing {output}; wait for it, or choose another folder"
        ) from None
    with lock:
        begin(part, json.loads(json.dumps(job)), resume, overwrite)
        yield part


def require_own(part: Path, resume: bool, overwrite: bool) -> None:
    """UserError for a folder in the way that no run of ours made."""
    if part.exists() and not (part / WORK).is_dir():
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


def begin(part: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> None:
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
    if resume:
        say(f"nothing to go on from: there is no {part}; starting anew")
    clear(part)  # killed before the job was written down
    write_json(file, job)


def clear(part: Path) -> None:
    """Remove everything but the lock; the job first, so that a run killed meanwhile leaves none."""
    (part / WORK / JOB).unlink(missing_ok=True)
    for place in (*part.iterdir(), *(part / WORK).iterdir()):
        if place.is_dir() and not place.is_symlink() and place.name != WORK:
            shutil.rmtree(place)
        elif place.name not in (WORK, LOCK):
            place.unlink()


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file whole. ValueError for inf or NaN, which JSON does not have."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".part")
    beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(file)


def kept_json(file: Path) -> dict[str, Any] | None:
    """What an earlier run left; None if there is nothing, or nothing that can be read."""
    try:
        return read_json(file)
    except UserError:
        return None


def finish(part: Path, output: Path) -> None:
    """Give the folder its name, in the place of what was there."""
    old = part / WORK / "old"
    if output.exists():
        output.rename(old)
    part.rename(output)
    shutil.rmtree(output / WORK)


def put_in_place(part: Path, output: Path, overwrite: bool) -> None:
    """Give OUTPUT.part/new the output's name, in the place of what was there, and remove the rest. Killed at any moment it can be
    called again."""
    (part / WORK / PLACING).touch()
    new = part / NEW
    if new.exists():
        if output.exists() or output.is_symlink():
            if not overwrite:
                raise UserError(f"output: {output} has appeared meanwhile; nothing was replaced")
            output.rename(part / WORK / "old")
        new.rename(output)
    shutil.rmtree(part)


def is_placed(output: Path) -> bool:
    """Whether a run was killed when its output had its name already, and OUTPUT.part was still to be removed."""
    part = output.with_name(output.name + ".part")
    return (part / WORK / PLACING).is_file() and not (part / NEW).exists() and output.exists()
