"""Pictures as data URLs, for as many prompts as fit into the page's size limit.

The prompts whose pictures differ most come first. Pictures have their full size up to SIDES[0]
pixels; where fewer than MIN_PROMPTS prompts fit, all become smaller.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...pipelines.replaceable import RESULTS
from ..picture_files import opened_picture
from .merge import Comparison

SIDES = (1024, 768, 512, 384, 256, 128, 64)  # pixels of the longest side
MIN_PROMPTS = 8  # below this number of prompts, the pictures become smaller first
QUALITY = 90  # of WebP and JPEG, in percent
MARKUP = 220  # bytes of a picture's or a prompt's tags


def picture_rows(comparison: Comparison, room: int) -> tuple[list[dict[str, Any]], int]:
    """Return the pictures of as many prompts as fit, those that differ most first.

    Args:
        comparison: runs with the folders of their pictures.
        room: bytes available.

    Returns:
        One {"text", "pictures", "ssim"} a prompt: the data URLs of dense and runs, and the SSIM of
        each to dense, None where it is not known; and the bytes used.

    Raises:
        UserError: a picture is missing or cannot be read.
    """
    total = len(comparison.results["prompts"])
    for side in SIDES:
        rows, size = rows_of(comparison, room, side)
        if len(rows) >= min(total, MIN_PROMPTS):
            break
    return rows, size


def rows_of(comparison: Comparison, room: int, side: int) -> tuple[list[dict[str, Any]], int]:
    """Return the rows that fit into `room` bytes with pictures of at most `side` pixels."""
    rows: list[dict[str, Any]] = []
    used = 0
    results = comparison.results
    columns = [
        (comparison.folders[0], results.get("dense_images", [])),
        *((comparison.homes[run["name"]], run["images"]) for run in results["runs"]),
    ]
    names = sum(len(text_bytes(run["name"])) for run in results["runs"])
    similar = [ssim_of(run, len(results["prompts"])) for run in results["runs"]]
    for i in worst_first(similar, len(results["prompts"])):
        prompt = str(results["prompts"][i])
        urls = [picture_html(home, images, i, side) for home, images in columns]
        size = len(text_bytes(prompt)) + names + sum(len(url) + MARKUP for url in [*urls, ""])
        if used + size > room:
            break
        used += size
        ssim = [None, *(values[i] if values else None for values in similar)]
        rows.append({"text": prompt, "pictures": urls, "ssim": ssim})
    return rows, used


def ssim_of(run: dict[str, Any], prompts: int) -> list[float]:
    """Return the SSIM of each picture of a run to dense's; [] if it was not measured."""
    found = (run["metrics"].get("ssim") or {}).get("per_prompt") or []
    return found if len(found) == prompts else []


def worst_first(similar: Sequence[Sequence[float]], prompts: int) -> list[int]:
    """Return the order of the prompts: first the worst of each run, then the second worst.

    Args:
        similar: SSIM of each prompt, for each run; empty for a run without.
        prompts: number of prompts.
    """
    places: list[list[int]] = [[] for _ in range(prompts)]
    for values in filter(None, similar):
        for place, i in enumerate(sorted(range(prompts), key=values.__getitem__)):
            places[i].append(place)
    return sorted(range(prompts), key=lambda i: (min(places[i], default=0), sum(places[i])))


def text_bytes(text: str) -> bytes:
    """Return a text as the page contains it: escaped, in UTF-8."""
    from markupsafe import escape

    return str(escape(text)).encode(errors="replace")


def picture_html(folder: Path, images: list[str], index: int, side: int) -> str:
    """Return a picture of a run as a data URL; "" for a run without this picture."""
    if index >= len(images):
        return ""
    return data_url(picture_file(folder, images[index]), side)


def picture_file(folder: Path, name: str) -> Path:
    """Return the file of a picture.

    Args:
        folder: the folder of the run.
        name: the picture's path in it, as its results.json has it.

    Raises:
        UserError: there is no such file in the folder.
    """
    try:
        file = (folder / name).resolve()
        found = file.is_relative_to(folder.resolve()) and file.is_file()
    except (OSError, ValueError, RuntimeError):  # not the name of a file
        found = False
    if not found:
        raise UserError(
            f"{folder / RESULTS}: expected the picture {name!r} in its folder, found no "
            "picture there; evaluate again"
        )
    return file


def data_url(file: Path, side: int) -> str:
    """Return a picture as a data URL, its longest side at most `side` pixels.

    A PNG file that needs no scaling is embedded as it is if that is smaller than WebP or JPEG.

    Raises:
        UserError: the file cannot be read as a picture.
    """
    from PIL import Image, features

    kind = "webp" if features.check("webp") else "jpeg"
    buffer = io.BytesIO()
    with opened_picture(file, "evaluate again") as opened:
        whole = opened.format == "PNG" and max(opened.size) <= side
        image = opened.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.save(buffer, kind, quality=QUALITY)
    data = buffer.getvalue()
    if whole and file.stat().st_size <= len(data):
        kind, data = "png", file.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
