"""A finished evaluation: of the same pipelines, prompts and settings as another, or not."""

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..pipelines.builtin import builtin_version
from ..pipelines.record import versions
from ..pipelines.replaceable import RESULTS
from ..runtime.json_files import read_json
from ..runtime.strict_json import as_written
from .inputs import Evaluation
from .report.schema import SCHEMA_VERSION, check_results
from .weights import weight_hashes


def finished_results(evaluation: Evaluation, output: Path) -> dict[str, Any]:
    """Return the results of a finished run, once they are known to be those of this evaluation.

    Args:
        evaluation: the pipelines, and how they are called; their weights are read.
        output: the folder of the run.

    Returns:
        The content of results.json.

    Raises:
        UserError: they are of another evaluation, whose differences the message names, or a
            picture is missing.
    """
    found = read_json(output / RESULTS)
    if differ := differing(evaluation, found, output):
        raise UserError(
            f"resume: {output} is finished, but of an evaluation with other {', '.join(differ)}; "
            "choose another output, or pass --overwrite"
        )
    for name in (name for images in pictures_of(found) for name in images):
        if not (output / name).is_file():
            raise UserError(
                f"resume: {output} is finished, but its picture {name} is missing; "
                "evaluate again with --overwrite"
            )
    return found


def differing(evaluation: Evaluation, found: dict[str, Any], output: Path) -> list[str]:
    """Return the names of what differs between an evaluation and a results.json.

    Raises:
        UserError: the file does not follow the schema.
    """
    if found.get("schema") != SCHEMA_VERSION:
        return [f"schema ({found.get('schema')!r} there, {SCHEMA_VERSION} here)"]
    try:
        check_results(found)
    except ValueError as error:
        raise UserError(
            f"resume: {output / RESULTS} is damaged: {error}; evaluate again with --overwrite"
        ) from None
    there, here = found_identity(found), as_written(identity(evaluation))
    return [name for name, value in here.items() if value != there.get(name)]


def identity(evaluation: Evaluation) -> dict[str, Any]:
    """Return what two runs with equal results have in common, by the names of results.json."""
    weights = {name: weight_hashes(folder) for name, folder in evaluation.runs.items()}
    return {
        "runs": list(evaluation.runs),
        "dense_weights": weight_hashes(evaluation.dense),
        "weights of the runs": list(weights.values()),
        "prompts": evaluation.prompts,
        "seeds": evaluation.seeds,
        "settings": evaluation.settings,
        "without": evaluation.checkers,
        "judges": evaluation.judges.record(),
        "versions": versions() | builtin_version(evaluation.dense.path),
        "machine": evaluation.machine(),
    }


def found_identity(results: dict[str, Any]) -> dict[str, Any]:
    """Return the same of a results.json."""
    runs = results["runs"]
    return results | {
        "runs": [run.get("name") for run in runs],
        "weights of the runs": [run.get("weights") for run in runs],
    }


def pictures_of(results: dict[str, Any]) -> list[list[str]]:
    """Return the paths of the pictures of every pipeline of a results.json."""
    return [results["dense_images"], *(run["images"] for run in results["runs"])]
