"""An evaluation in a model card: a table of its figures, and a strip of its pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..pipelines.folder import Folder
from ..pipelines.published import STRIP
from ..pipelines.replaceable import RESULTS
from ..runtime.json_files import read_json
from .report.noise import DENSE_NAME, METRICS, measured_metrics
from .report.pictures import picture_file
from .report.schema import SCHEMA_VERSION, check_results
from .report.strip import COUNT, first, grid, png
from .report.text_table import COLUMNS
from .report.values import costs_of, drawing_notes, quality_intervals
from .weights import weight_hashes

REMEDY = "evaluate again"


@dataclass(frozen=True)
class CardFigures:
    """The lines of a card on an evaluation, and the picture that they show.

    Attributes:
        lines: Markdown.
        strip: a PNG picture, the dense model's pictures above those of the pruned one.
    """

    lines: list[str]
    strip: bytes


def card_figures(run: Path, folder: Folder) -> CardFigures:
    """Return what an evaluation says of a pruned folder.

    Args:
        run: the folder that `obsdiff evaluate` wrote.
        folder: the pruned folder; its weights are read.

    Raises:
        UserError: the evaluation is damaged, or is not of these weights.
    """
    results = read_results(run)
    name = run_of(results, folder, run)
    strip = strip_of(results, run, name)
    prompts = len(results["prompts"])
    return CardFigures(
        [
            f"![{min(COUNT, prompts)} prompts, dense above, pruned below]({STRIP})",
            "",
            "Above the dense model, below this one; the same prompts and seeds.",
            "",
            *table(results, name),
            "",
            f"{prompts} prompts; in brackets the 95 % interval over prompts, of the speed the "
            "quartiles over rounds.",
            *[f"{line[0].upper()}{line[1:]}." for line in drawing_notes(results)],
        ],
        strip,
    )


def read_results(run: Path) -> dict[str, Any]:
    """Return the checked results.json of an evaluation; UserError if it is damaged."""
    results = read_json(run / RESULTS)
    try:
        if results.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"schema: expected {SCHEMA_VERSION}, found {results.get('schema')!r}")
        check_results(results)
    except ValueError as error:
        raise UserError(f"evaluation: {run / RESULTS} can't be read: {error}; {REMEDY}") from None
    return results


def run_of(results: dict[str, Any], folder: Folder, run: Path) -> str:
    """Return the name of the run with the weights of a folder; UserError if there is none."""
    hashes = weight_hashes(folder)
    found = [one["name"] for one in results["runs"] if one.get("weights") == hashes]
    if not found:
        names = ", ".join(one["name"] for one in results["runs"])
        raise UserError(
            f"evaluation: expected one of {folder.path}, found other weights in {run} ({names}); "
            f"run: obsdiff evaluate {folder.path} --against MODEL --output RUN"
        )
    return str(found[0])


def table(results: dict[str, Any], name: str) -> list[str]:
    """Return the figures of a run beside those of the dense model, as a Markdown table.

    Args:
        results: of the evaluation.
        name: of the run.
    """
    lines = ["| | dense | this model |", "| --- | --- | --- |"]
    for metric in measured_metrics(results):
        values = {
            who: f"{one.value} ({one.low} to {one.high})"
            for who, one in quality_intervals(results, metric).items()
        }
        dense = values.get(DENSE_NAME, METRICS[metric].of_dense)
        lines.append(f"| {METRICS[metric].title} | {dense} | {values.get(name, 'not measured')} |")
    costs = costs_of(results)
    dense_cost, cost = costs[DENSE_NAME], costs[name]
    for title, text in COLUMNS:
        if found := text(cost, dense_cost):
            dense = text(dense_cost, dense_cost) if dense_cost else ""
            lines.append(f"| {title} | {dense} | {found} |")
    return lines


def strip_of(results: dict[str, Any], run: Path, name: str) -> bytes:
    """Return the first pictures of the dense model and of a run as one PNG picture.

    Args:
        results: of the evaluation.
        run: its folder.
        name: of the run.

    Raises:
        UserError: a picture is missing or can't be read.
    """
    rows = [
        results.get("dense_images", []),
        next(one["images"] for one in results["runs"] if one["name"] == name),
    ]
    return png(grid([[picture_file(run, image) for image in first(row)] for row in rows]))
