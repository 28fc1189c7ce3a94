"""results.json of any number of runs -> one self-contained HTML page of at most 10 MB.

Reads JSON and pictures only; imports neither torch nor diffusers.

    1. Read every results.json and check it against the schema     report/schema.py
    2. Merge comparable results; others get their own section      report/merge.py
    3. Make the tables and plots                                   report/tables.py, report/plots.py
    4. Add the pictures of as many prompts as fit                  report/pictures.py
    5. Render page.html
"""

import base64
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from ...pipelines.output_path import absolute, check_writable
from ...pipelines.record import RECORD
from ...pipelines.replaceable import RESULTS, WORK, is_page
from ...runtime.json_files import read_json
from ...runtime.scratch import disk_errors
from ...runtime.whole_files import whole_file
from .merge import Comparison, merge
from .noise import DENSE_NAME, LEGEND, reasons
from .pictures import picture_rows
from .plots import plots
from .schema import SCHEMA_VERSION, check_results
from .tables import config_table, cost_table, quality_table
from .values import drawing_notes, unmeasured_costs

if TYPE_CHECKING:
    from jinja2 import Template

LARGEST_PAGE = 10_000_000  # bytes of a page
MARGIN = 50_000  # bytes for the notes on pictures, which are added last


def check_page(page: Path, overwrite: bool) -> None:
    """Check that a page can be written.

    Args:
        page: the file to write.
        overwrite: whether it may replace another page.

    Raises:
        UserError: the path is not that of a page, is not writable, or exists.
    """
    if os.path.isdir(page) or page.suffix not in (".html", ".htm"):
        raise UserError(
            f"output: expected the name of a page that ends in .html, found {str(page)!r}"
        )
    check_existing(page, overwrite)
    check_writable(page)


def check_existing(page: Path, overwrite: bool) -> None:
    """Raise UserError if the path exists, unless it is a page that may be replaced."""
    if os.path.lexists(page):
        if not overwrite:
            raise UserError(
                f"output: {page} exists already; choose another name, or pass --overwrite to "
                "replace it"
            )
        if not is_page(page):
            raise UserError(
                f"output: {page} is no page that obsdiff report wrote, and is not replaced; "
                "choose another name"
            )


def write_page(folders: list[Path], page: Path, overwrite: bool = True) -> None:
    """Write the page of some runs.

    Args:
        folders: of the runs, each with a results.json.
        page: the file to write.
        overwrite: whether it may replace another page.

    Raises:
        UserError: a folder has no valid results.json or occurs twice, a picture cannot be read,
            the page would be too large, or the file may not be replaced.
    """
    page, folders = absolute(page), [Path(folder) for folder in folders]
    places = [folder.resolve() for folder in folders]
    twice = [
        str(folder)
        for folder, place in zip(folders, places, strict=True)
        if places.count(place) > 1
    ]
    if twice:
        raise UserError(
            f"report: expected each run once, found the same folder twice: {', '.join(twice)}; "
            "remove one"
        )
    html = page_within_limit(merge([(folder, read_results(folder)) for folder in folders]))
    page.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(page), whole_file(page) as beside:
        beside.write_text(html, encoding="utf-8", errors="replace")
        check_existing(page, overwrite)  # again, since another process may have written it


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


def page_within_limit(comparisons: list[Comparison]) -> str:
    """Return the page with as many prompts as fit into LARGEST_PAGE bytes.

    The room for pictures is divided evenly, the comparison with the fewest pictures first; the
    room that it does not need is divided among the others.
    """
    sections = [section(comparison) for comparison in comparisons]
    left = LARGEST_PAGE - MARGIN - len(rendered(sections).encode(errors="replace"))
    if left < 0:
        raise UserError(
            f"report: expected a page of at most {LARGEST_PAGE // 10**6} MB, found "
            f"{(LARGEST_PAGE - left) / 1e6:.0f} MB without a picture; pass fewer runs"
        )
    order = sorted(
        range(len(sections)),
        key=lambda i: len(comparisons[i].results["prompts"]) * len(sections[i]["names"]),
    )
    for done, i in enumerate(order):
        sections[i]["prompts"], size = picture_rows(comparisons[i], left // (len(order) - done))
        left -= size
    return rendered(sections)


def rendered(sections: list[dict[str, Any]]) -> str:
    """Return page.html with the sections filled in."""
    return template().render(sections=sections)


@cache
def template() -> "Template":
    """Return page.html, compiled once."""
    from jinja2 import Environment, FileSystemLoader

    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page.filters["sha256"] = lambda text: base64.b64encode(
        hashlib.sha256(str(text).encode()).digest()
    ).decode()
    return page.get_template("page.html")


def section(comparison: Comparison) -> dict[str, Any]:
    """Return the data of one comparison for the template, without its pictures."""
    results = comparison.results
    calibrated_on = [
        run["prompts_calibrated_on"] for run in results["runs"] if "prompts_calibrated_on" in run
    ]
    return {
        "dense": results["dense"],
        "why": comparison.why,
        "folders": [folder.name or folder.resolve().name for folder in comparison.folders],
        "settings": results.get("settings", {}),
        "total": len(results["prompts"]),
        "prompts": [],
        "names": [DENSE_NAME, *(run["name"] for run in results["runs"])],
        "calibrated_on": max(calibrated_on, default=None),
        "quality": quality_table(comparison),
        "cost": cost_table(comparison),
        "config": config_table(comparison),
        "legend": LEGEND,
        "drawing": drawing_notes(results),
        "reasons": reasons(results),
        "cost_reasons": unmeasured_costs(results),
        "plots": plots(comparison),
    }
