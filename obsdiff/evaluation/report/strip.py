"""The first pictures of dense and runs in one PNG: for a card, a message, a slide."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from ...pipelines.output_path import absolute, check_writable
from ...pipelines.published import MADE_BY, is_strip
from ...runtime.scratch import disk_errors
from ...runtime.whole_files import whole_file
from ..picture_files import read_picture
from .merge import Comparison, merge
from .noise import DENSE_NAME
from .pictures import picture_file
from .read_runs import read_results

if TYPE_CHECKING:
    from PIL.Image import Image

COUNT = 8  # pictures in a row
SMALLEST, LARGEST = 128, 256  # pixels of the longest side of a picture
LABEL = 26  # pixels of the line above a row
REMEDY = "evaluate again"


def check_strip(file: Path, overwrite: bool) -> None:
    """Check that a strip can be written.

    Args:
        file: the picture to write.
        overwrite: whether it may replace another strip.

    Raises:
        UserError: the path is not that of a PNG picture, is not writable, or exists.
    """
    if file.is_dir() or file.suffix != ".png":
        raise UserError(
            f"strip: expected the name of a picture that ends in .png, found {str(file)!r}"
        )
    if file.exists() or file.is_symlink():
        if not overwrite:
            raise UserError(
                f"strip: {file} exists already; choose another name, or pass --overwrite to "
                "replace it"
            )
        if not is_strip(file):
            raise UserError(
                f"strip: {file} is no strip that obsdiff wrote, and is not replaced; "
                "choose another name"
            )
    check_writable(file)


def write_strip(folders: Sequence[Path], file: Path, overwrite: bool = True) -> None:
    """Write the strip of some runs that compare: a row for dense and one for each run.

    Args:
        folders: of the runs, each with a results.json.
        file: the picture to write.
        overwrite: whether it may replace another strip.

    Raises:
        UserError: a folder is no finished run, the runs do not compare, a picture can't be read,
            or the file may not be replaced.
    """
    file = absolute(file)
    found = merge([(Path(folder), read_results(Path(folder))) for folder in folders])
    if len(found) > 1:
        raise UserError(f"strip: expected runs that compare. {found[1].why}")
    data = png(labelled(rows_of(found[0])))
    file.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(file), whole_file(file) as beside:
        beside.write_bytes(data)
        check_strip(file, overwrite)  # again, since another process may have written it


def rows_of(comparison: Comparison) -> list[tuple[str, list[Path]]]:
    """Return the name and the first pictures of dense and of each run."""
    results: dict[str, Any] = comparison.results
    dense = comparison.folders[0]
    rows = [
        (DENSE_NAME, [picture_file(dense, name) for name in first(results.get("dense_images", []))])
    ]
    for run in results["runs"]:
        home = comparison.homes[run["name"]]
        rows.append((run["name"], [picture_file(home, name) for name in first(run["images"])]))
    return rows


def first(images: list[str]) -> list[str]:
    """Return the pictures that a row has."""
    return images[:COUNT]


def grid(rows: Sequence[Sequence[Path]], above: int = 0) -> "Image":
    """Return rows of pictures on white.

    Args:
        rows: files of pictures.
        above: pixels that stay free above each row.

    Raises:
        UserError: a picture can't be read.
    """
    from PIL import Image

    pictures = [[read_picture(file, REMEDY) for file in row] for row in rows]
    longest = max((max(picture.size) for row in pictures for picture in row), default=SMALLEST)
    side = min(LARGEST, max(SMALLEST, longest))
    columns = max(1, *map(len, pictures))
    whole = Image.new("RGB", (side * columns, (side + above) * len(rows)), "white")
    for y, row in enumerate(pictures):
        for x, picture in enumerate(row):
            scale = side / max(picture.size)
            width, height = (max(1, round(scale * length)) for length in picture.size)
            shown = picture.resize((width, height), Image.Resampling.LANCZOS)
            whole.paste(shown, (x * side, y * (side + above) + above))
    return whole


def labelled(rows: list[tuple[str, list[Path]]]) -> "Image":
    """Return rows of pictures with their names above them."""
    from PIL import ImageDraw, ImageFont

    whole = grid([files for _, files in rows], LABEL)
    draw = ImageDraw.Draw(whole)
    height = whole.height // len(rows)
    for y, (name, _) in enumerate(rows):
        text = name.encode(errors="replace").decode()
        draw.text((4, y * height + 4), text, "black", ImageFont.load_default(16))
    return whole


def png(picture: "Image") -> bytes:
    """Return a picture as PNG, marked as made by obsdiff."""
    from PIL.PngImagePlugin import PngInfo

    made = PngInfo()
    made.add_text(*MADE_BY)
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True, pnginfo=made)
    return buffer.getvalue()
