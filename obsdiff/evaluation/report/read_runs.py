"""Read the results.json of a run, once it is known to be finished and to follow the schema."""

from pathlib import Path
from typing import Any

from ...errors import UserError
from ...pipelines.record import RECORD
from ...pipelines.replaceable import RESULTS, WORK
from ...runtime.json_files import read_json
from .schema import SCHEMA_VERSION, check_results


def read_results(folder: Path) -> dict[str, Any]:
    """Return the checked results.json of a run.

    Raises:
        UserError: the folder is no finished run, or its results.json does not follow the schema.
    """
    check_finished(folder)
    file = folder / RESULTS
    results = read_json(file)
    if results.get("schema") != SCHEMA_VERSION:
        raise UserError(
            f"{file}: expected schema {SCHEMA_VERSION}, found {results.get('schema')!r}; "
            "evaluate again with this version of obsdiff"
        )
    try:
        check_results(results)
    except ValueError as error:
        raise UserError(
            f"{file} does not follow schema {SCHEMA_VERSION}: {error}; "
            "evaluate again with this version of obsdiff"
        ) from None
    return results


def check_finished(folder: Path) -> None:
    """Raise UserError for a folder that is no run, or whose run did not finish."""
    part = folder.with_name(folder.name + ".part") if folder.name else folder
    if folder.suffix == ".part" and (folder / WORK).is_dir():
        part, folder = folder, folder.with_name(folder.name.removesuffix(".part"))
    elif (folder / RESULTS).is_file():
        return
    if (part / WORK).is_dir():
        raise UserError(
            f"report: expected a finished run, found {part}, of a run that did not finish; "
            f"resume it with obsdiff evaluate ... --output {folder} --resume"
        )
    if (folder / RECORD).is_file():
        raise UserError(
            f"report: expected a run, found the pruned pipeline {folder}, without {RESULTS}; "
            f"make a run with obsdiff evaluate {folder} --against MODEL"
        )
    found = "a file" if folder.exists() else "nothing"
    if folder.is_dir():
        found = f"a folder without {RESULTS}"
    raise UserError(
        f"report: expected the folder of a run, with its {RESULTS}, found {found} at "
        f"{str(folder)!r}; make a run with obsdiff evaluate"
    )
