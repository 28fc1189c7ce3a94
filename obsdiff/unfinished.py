"""The folder a long evaluation fills before it gets its name: OUTPUT.part, from which a killed run goes on.

What only the work needs lies in OUTPUT.part/.work, job.json among it: the settings that have to be the same for a run to go
on. Files appear whole: written beside, then renamed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from .errors import UserError
from .progress import say
from .stored import read_json

WORK = ".work"
JOB = "job.json"


def check_place(output: Path, inputs: list[Path]) -> None:
    """UserError if the output is one of the input folders, inside one or around one: replacing it would take the models along."""
    place = output.resolve()
    for folder in inputs:
        other = folder.resolve()
        if place == other or place in other.parents or other in place.parents:
            raise UserError(f"output: {output} and the model {folder} lie in one another; choose a folder apart from the models")


def open_part(output: Path, job: dict[str, Any], resume: bool, overwrite: bool) -> Path:
    """OUTPUT.part: a new one, or a killed run's with the same job. UserError if there is one and `resume` was not given."""
    part = output.with_name(output.name + ".part")
    file = part / WORK / JOB
    if list(part.rglob("*")) == [part / WORK]:  # killed before the job was written down
        shutil.rmtree(part)
    if part.exists() and not resume:
        if not overwrite:
            raise UserError(f"output: {part} is there from a run that did not end; go on with --resume, or start anew with --overwrite")
        if not file.is_file():
            raise UserError(f"output: {part} is in the way, and no run of obsdiff evaluate made it; move it away")
        shutil.rmtree(part)
    wanted = json.loads(json.dumps(job))
    if part.exists():
        if not file.is_file():
            raise UserError(f"output: {part} has no {WORK}/{JOB}, so no run can go on from it; move it away, or leave out --resume")
        found = read_json(file)
        differ = [key for key in wanted if found.get(key) != wanted[key]]
        if differ:
            raise UserError(f"output: {part} was begun with other {', '.join(differ)}; start anew with --overwrite")
        return part
    if resume:
        say(f"nothing to go on from: there is no {part}; starting anew")
    (part / WORK).mkdir(parents=True)
    write_json(file, wanted)
    return part


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
