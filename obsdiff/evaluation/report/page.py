"""results.json of any number of runs -> one HTML page that needs nothing else: no network, light and dark, at most 10 MB.

Reads JSON and pictures alone; torch and diffusers have no part in it.

    1. Read every results.json and check it against the schema        (evaluation/report/schema.py)
    2. Merge what compares; the rest becomes a section of its own     (evaluation/report/merge.py)
    3. Tables, plots, then as many pictures as there is room for      (evaluation/report/tables.py, evaluation/report/merge.py, evaluation/report/plots.py, evaluation/report/pictures.py)
    4. Fill in page.html
"""

import base64
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...pipelines.partial_output import check_writable
from ...pipelines.record import RECORD
from ...pipelines.replaceable import is_page
from ...runtime.json_files import read_json
from .merge import Comparison, merge
from .noise import DENSE_NAME, LEGEND, reasons
from .pictures import picture_rows
from .plots import plots
from .schema import check_results
from .tables import config_table, cost_reasons, cost_table, quality_table

SCHEMA = 1
LARGEST_PAGE = 10_000_000  # bytes of a page
MARGIN = 50_000  # for the sentences around the pictures


def check_page(page: Path, overwrite: bool) -> None:
    """UserError unless the page can be written, and replaces at most another page."""
    if page.is_dir() or page.suffix not in (".html", ".htm"):
        raise UserError(
            f"output: expected the name of a page that ends in .html, found {str(page)!r}"
        )
    check_existing(page, overwrite)
    check_writable(page)


def check_existing(page: Path, overwrite: bool) -> None:
    """UserError for anything that the page may not replace."""
    if os.path.lexists(page):
        if not overwrite:
            raise UserError(
                f"output: {page} exists already; choose another, or give --overwrite to replace it"
            )
        if not is_page(page):
            raise UserError(
                f"output: {page} is no page that obsdiff report wrote, and stays; choose another name"
            )


def write_page(folders: list[Path], page: Path, overwrite: bool = True) -> None:
    """Write the page of the results in `folders`. UserError for a folder without a whole results.json, or of another schema, and for an
    existing file that is no page, or any without `overwrite`."""
    folders = [Path(folder) for folder in folders]
    places = [folder.resolve() for folder in folders]
    twice = [
        str(folder)
        for folder, place in zip(folders, places, strict=True)
        if places.count(place) > 1
    ]
    if twice:
        raise UserError(
            f"report: expected each run once, found the same folder twice: {', '.join(twice)}; leave one out"
        )
    html = fitting_page(merge([(folder, read_results(folder)) for folder in folders]))
    page.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".obsdiff-", dir=page.parent) as beside:
        new = Path(beside) / "page"
        new.write_text(html, encoding="utf-8", errors="replace")
        check_existing(page, overwrite)  # again: it may have appeared meanwhile
        new.replace(page)


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of a run, checked."""
    check_finished(folder)
    file = folder / "results.json"
    results = read_json(file)
    if results.get("schema") != SCHEMA:
        raise UserError(
            f"{file}: expected schema {SCHEMA}, found {results.get('schema')!r}; write it again with this obsdiff"
        )
    try:
        check_results(results)
    except ValueError as error:
        raise UserError(
            f"{file} does not follow schema {SCHEMA}: {error}; write it again with this obsdiff"
        ) from None
    return results


def check_finished(folder: Path) -> None:
    """UserError for a folder that is no run, or that of one that did not end."""
    part = folder.with_name(folder.name + ".part") if folder.name else folder
    if folder.suffix == ".part" and (folder / ".work").is_dir():
        part, folder = folder, folder.with_name(folder.name.removesuffix(".part"))
    elif (folder / "results.json").is_file():
        return
    if (part / ".work").is_dir():
        raise UserError(
            f"report: {folder} is not finished: {part} is of a run that did not end; go on with obsdiff evaluate ... --output {folder} --resume"
        )
    if (folder / RECORD).is_file():
        raise UserError(
            f"report: expected a run, found the pruned pipeline {folder}, without results.json; obsdiff evaluate {folder} --against MODEL makes a run"
        )
    found = (
        "a folder without results.json"
        if folder.is_dir()
        else "a file"
        if folder.exists()
        else "nothing"
    )
    raise UserError(
        f"report: expected the folder of a run, with its results.json, found {found} at {str(folder)!r}; obsdiff evaluate makes one"
    )


def fitting_page(comparisons: list[Comparison]) -> str:
    """The page, with as many prompts as it has room for. Comparisons with few pictures take theirs first, and leave what they don't need."""
    sections = [section(comparison) for comparison in comparisons]
    left = LARGEST_PAGE - MARGIN - len(rendered(sections).encode(errors="replace"))
    if left < 0:
        raise UserError(
            f"report: the page would have {(LARGEST_PAGE - left) / 1e6:.0f} MB without a picture, more than {LARGEST_PAGE // 10**6}; give fewer runs"
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
    from jinja2 import Environment, FileSystemLoader

    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page.filters["sha256"] = lambda text: base64.b64encode(
        hashlib.sha256(str(text).encode()).digest()
    ).decode()
    return page.get_template("page.html").render(sections=sections)


def section(comparison: Comparison) -> dict[str, Any]:
    """What the template shows of one comparison, without its pictures."""
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
        "reasons": reasons(results),
        "cost_reasons": cost_reasons(comparison),
        "plots": plots(comparison),
    }
