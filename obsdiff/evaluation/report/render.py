"""Sections of a page -> HTML of at most 10 MB: pictures fill the room that is left.

The page is one file. Its policy admits the one style sheet and the one script in it by their
hashes, pictures as data URLs, and nothing else.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from .merge import Comparison
from .pictures import picture_rows
from .sections import section

if TYPE_CHECKING:
    from jinja2 import Template

LARGEST_PAGE = 10_000_000  # bytes of a page
MARGIN = 50_000  # bytes for the notes on pictures, which are added last
TEMPLATE = Path(__file__).parent / "template"
SCRIPTS = ("tables.js", "compare.js")


def page_within_limit(comparisons: list[Comparison]) -> str:
    """Return the page with as many prompts as fit into LARGEST_PAGE bytes.

    The room for pictures is divided evenly, the comparison with the fewest pictures first; the
    room that it does not need is divided among the others.

    Args:
        comparisons: one for each section.

    Raises:
        UserError: the page is too large without a picture, or a picture can't be read.
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
    """Return the page with the sections filled in."""
    return template().render(sections=sections)


@cache
def template() -> "Template":
    """Return page.html with the style sheet and the script, compiled once."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    page = Environment(loader=FileSystemLoader(TEMPLATE), autoescape=True, trim_blocks=True)
    style = text_of("style.css")
    script = "\n".join(map(text_of, SCRIPTS))
    hashes = f"style-src 'sha256-{sha256(style)}'; script-src 'sha256-{sha256(script)}'"
    page.globals["style"], page.globals["script"] = Markup(style), Markup(script)
    page.globals["policy"] = Markup(
        f"default-src 'none'; img-src data:; {hashes}; base-uri 'none'; form-action 'none'"
    )
    return page.get_template("page.html")


def text_of(name: str) -> str:
    """Return the text of a file of the template."""
    return (TEMPLATE / name).read_text(encoding="utf-8")


def sha256(text: str) -> str:
    """Return the hash of a style sheet or script as a policy has it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
