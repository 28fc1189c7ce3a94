"""What an earlier run has finished: taken if it is of the same run and not damaged."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import RunFailed, UserError
from ..pipelines.finished import damaged_file, read_finished
from ..pipelines.folder import Folder
from ..pipelines.output_path import absolute
from ..pipelines.partial_output import FINISHED, part_folder
from ..pipelines.record import RECORD
from ..runtime.progress import say
from .targets import PruneTarget

Records = list[dict[str, Any]]


def is_complete(output: Path, targets: Sequence[PruneTarget]) -> bool:
    """Return whether an output is in its place, with a record of each target, and no part of it.

    Raises:
        UserError: the output is no name of a folder.
    """
    output = absolute(output)
    records = [output / target.folder / RECORD for target in targets]
    return not os.path.lexists(part_folder(output)) and all(map(os.path.isfile, records))


def finished_already(
    folder: Folder,
    prompts: list[str],
    targets: Sequence[PruneTarget],
    output: Path,
    overwrite: bool,
) -> Records | None:
    """Return the records of a complete output; None for one of another run that is replaced.

    Args:
        folder: the model.
        prompts: the calibration prompts to choose from.
        targets: the prunings of this run.
        output: the folder.
        overwrite: whether an output of another run may be replaced.

    Raises:
        UserError: it is of another run, or can't tell.
        RunFailed: a file in it is not as recorded.
    """
    try:
        return finished_records(folder, prompts, targets, output)
    except UserError:
        if overwrite:
            return None
        raise


def finished_records(
    folder: Folder, prompts: list[str], targets: Sequence[PruneTarget], output: Path
) -> Records:
    """Return the records of an output that is in its place, once they are checked.

    Args:
        folder: the model.
        prompts: the calibration prompts to choose from.
        targets: the prunings of this run.
        output: the folder.

    Raises:
        UserError: it is of another run, or can't tell.
        RunFailed: a file in it is not as recorded.
    """
    found = [read_finished(output / target.folder) for target in targets]
    require_same_run(folder, prompts, targets, output, found)
    for target, record in zip(targets, found, strict=True):
        if name := damaged_file(place := output / target.folder, record, card=False):
            raise RunFailed(
                f"{place} is finished, but {name} is not as recorded; "
                "prune again with --overwrite and without --resume"
            )
    return found


def unfinished(
    folder: Folder, prompts: list[str], targets: Sequence[PruneTarget], part: Path
) -> list[int]:
    """Return the indices of the targets that are not finished, or damaged.

    A finished target is kept if it is of this run. Damaged ones are deleted.

    Args:
        folder: the model.
        prompts: the calibration prompts to choose from.
        targets: the prunings of this run.
        part: OUTPUT.part.

    Raises:
        UserError: a finished target is of another run, or can't tell.
    """
    places = [part / FINISHED / target.folder for target in targets]
    done = [i for i, place in enumerate(places) if place.is_dir()]
    records = {i: read_finished(places[i]) for i in done}
    if done:
        some = [targets[i] for i in done]
        require_same_run(folder, prompts, some, part / FINISHED, list(records.values()))
    for i, record in records.items():
        if name := damaged_file(places[i], record, card=True):
            say(f"{places[i]}: {name} is damaged; it is pruned again")
            shutil.rmtree(places[i])
    return [i for i, place in enumerate(places) if not place.is_dir()]


def require_same_run(
    folder: Folder,
    prompts: list[str],
    targets: Sequence[PruneTarget],
    output: Path,
    records: Records,
) -> None:
    """Check that finished prunings are of this run.

    Args:
        folder: the model, which is loaded for the hashes of its weights.
        prompts: the calibration prompts to choose from.
        targets: the prunings of this run.
        output: the folder that has those of the targets.
        records: the record of each target.

    Raises:
        UserError: one is of another run; the message names what differs.
    """
    from ..calibration.plan import plan_pruning
    from ..layerwise.fingerprint import fingerprint, require_same
    from ..pipelines.load import load_pipeline
    from ..runtime.hashing import model_hashes
    from ..runtime.strict_json import as_written

    config = targets[0].config
    pipe, _ = load_pipeline(folder, config.dtype, config.device, place=False)
    model = model_hashes(pipe)
    for target, record in zip(targets, records, strict=True):
        wanted = fingerprint(pipe, plan_pruning(pipe, prompts, target.config), model)
        require_same(record["fingerprint"], as_written(wanted), output / target.folder)
