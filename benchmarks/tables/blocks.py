"""The blocks of a Markdown page that a command writes.

    <!-- table: NAME -->

    anything

    <!-- end of table -->

Both comments are alone on their line. Text outside the blocks is never changed.
"""

import re
from collections.abc import Callable, Mapping

from obsdiff import UserError

from .stored import NotMeasured

END = "<!-- end of table -->"
BLOCK = re.compile(
    r"^<!-- table: (?P<name>[^\n]*) -->\n"
    r"(?P<content>.*?)"
    r"(?P<end>^<!-- end of table -->$|^<!-- table: [^\n]* -->$|\Z)",
    re.MULTILINE | re.DOTALL,
)


def blocks_in(text: str) -> dict[str, str]:
    """Name and content of every block.

    Raises:
        UserError: a block does not end, ends twice, or occurs twice.
    """
    found: dict[str, str] = {}
    for match in BLOCK.finditer(text):
        name = match["name"]
        if match["end"] != END:
            raise UserError(f"table {name}: expected the line {END} after it, found none")
        if name in found:
            raise UserError(f"table {name}: expected one block, found two")
        found[name] = match["content"].strip("\n")
    if (ends := text.splitlines().count(END)) != len(found):
        raise UserError(f"expected {len(found)} lines {END}, found {ends}")
    return found


def rewritten(
    text: str, tables: Mapping[str, Callable[[], str]]
) -> tuple[str, dict[str, NotMeasured]]:
    """Make every block of a page anew.

    Args:
        text: the page.
        tables: the functions that make the blocks, by name.

    Returns:
        The new page, and the blocks that were left as they are, with the reasons.

    Raises:
        UserError: a name is unknown, or the comments do not match.
    """
    missing: dict[str, NotMeasured] = {}
    for name in blocks_in(text):
        if name not in tables:
            raise UserError(f"table {name}: expected one of {', '.join(tables)}")

    def anew(match: re.Match[str]) -> str:
        try:
            content = tables[match["name"]]()
        except NotMeasured as error:
            missing[match["name"]] = error
            return match[0]
        return f"<!-- table: {match['name']} -->\n\n{content}\n\n{END}"

    return BLOCK.sub(anew, text), missing
