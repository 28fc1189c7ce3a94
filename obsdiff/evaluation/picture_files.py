"""Open pictures: PNG, WEBP and JPEG alone, whatever their names say.

Pillow has 40 more readers. Some are rarely used, and one passes PostScript to Ghostscript.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..runtime.regular_files import require_regular

FORMATS = ("PNG", "WEBP", "JPEG")
SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


@contextlib.contextmanager
def opened_picture(file: Path, remedy: str) -> Iterator[Image.Image]:
    """Open a picture; inside, its pixels are read on first use.

    Args:
        file: the picture.
        remedy: what to do about a wrong file, the end of the message.

    Yields:
        The picture.

    Raises:
        UserError: the file is no picture of one of the formats, or damaged.
    """
    require_regular(file)
    try:
        with Image.open(file, formats=FORMATS) as opened:
            yield opened
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{file} can't be read as a picture ({', '.join(FORMATS)}): {error}; {remedy}"
        ) from None


def read_picture(file: Path, remedy: str) -> Image.Image:
    """Return a picture's pixels, RGB; arguments and errors are those of opened_picture."""
    with opened_picture(file, remedy) as opened:
        return opened.convert("RGB")
