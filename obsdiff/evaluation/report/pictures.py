"""Pictures as data URLs: made small enough to compare dozens of runs in one page, and as many prompts as the page has room for."""

import base64
import io
from pathlib import Path
from typing import Any

from ...errors import UserError
from .merge import Comparison

SIDES = (256, 128, 64)  # longest side in pixels; a page shows 128, on a fine screen 256
MAX_PROMPTS = 8  # smaller pictures rather than fewer prompts than these
QUALITY = 90
MARKUP = 160  # bytes of a picture's or a prompt's tags


def picture_rows(comparison: Comparison, room: int) -> tuple[list[dict[str, Any]], int]:
    """A row of pictures for each prompt, dense first, in at most `room` bytes: the first prompts only, if all don't fit. And the bytes."""
    total = len(comparison.results["prompts"])
    for side in SIDES:
        rows, size = rows_of(comparison, room, side)
        if len(rows) >= min(total, MAX_PROMPTS):
            break
    return rows, size


def rows_of(comparison: Comparison, room: int, side: int) -> tuple[list[dict[str, Any]], int]:
    rows: list[dict[str, Any]] = []
    used = 0
    results = comparison.results
    columns = [
        (comparison.folders[0], results.get("dense_images", [])),
        *((comparison.homes[run["name"]], run["images"]) for run in results["runs"]),
    ]
    names = sum(len(text_bytes(run["name"])) for run in results["runs"])
    for i, prompt in enumerate(results["prompts"]):
        urls = [picture_html(home, images, i, side) for home, images in columns]
        size = len(text_bytes(str(prompt))) + names + sum(len(url) + MARKUP for url in [*urls, ""])
        if used + size > room:
            break
        used += size
        rows.append({"text": str(prompt), "pictures": urls})
    return rows, used


def text_bytes(text: str) -> bytes:
    """A text as the page writes it."""
    from markupsafe import escape

    return str(escape(text)).encode(errors="replace")


def picture_html(folder: Path, images: list[str], index: int, side: int) -> str:
    """A picture as a data URL; empty where there is none."""
    if index >= len(images):
        return ""
    try:
        file = (folder / images[index]).resolve()
        found = file.is_relative_to(folder.resolve()) and file.is_file()
    except (OSError, ValueError, RuntimeError):  # no name of a file
        found = False
    if not found:
        raise UserError(
            f"{folder / 'results.json'}: there is no picture {images[index]!r} in its folder"
        )
    return data_url(file, side)


def data_url(file: Path, side: int) -> str:
    """A picture whose longest side has at most `side` pixels: the file itself where that is a PNG and smaller than the same compressed."""
    from PIL import Image, features

    kind = "webp" if features.check("webp") else "jpeg"
    buffer = io.BytesIO()
    try:
        with Image.open(file) as opened:
            whole = opened.format == "PNG" and max(opened.size) <= side
            image = opened.convert("RGB")
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        image.save(buffer, kind, quality=QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} can't be read as a picture: {error}; evaluate again") from None
    data = buffer.getvalue()
    if whole and file.stat().st_size <= len(data):
        kind, data = "png", file.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
