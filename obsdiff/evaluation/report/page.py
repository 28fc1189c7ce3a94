"""results.json of any number of runs -> one self-contained HTML page of at most 10 MB.

Reads JSON and pictures only; imports neither torch nor diffusers.

    1. Read every results.json and check it against the schema     report/read_runs.py
    2. Merge comparable results; others get their own section      report/merge.py
    3. Make the contents of each section                           report/sections.py
    4. Render template/ with as many pictures as fit               report/render.py
"""

import os
from pathlib import Path

from ...errors import UserError
from ...pipelines.output_path import absolute, check_writable
from ...pipelines.replaceable import is_page
from ...runtime.scratch import disk_errors
from ...runtime.whole_files import whole_file
from .merge import merge
from .read_runs import read_results
from .render import page_within_limit


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
