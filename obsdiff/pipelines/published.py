"""What `obsdiff push` and `evaluate --update-card` change in a card, and the files that they add.

No record has the hashes of these files. No torch.
"""

import re
from pathlib import Path

PLACE = "PATH OF THIS FOLDER"  # in the code of a card; on the hub the repository's name
STRIP = "strip.png"  # pictures of an evaluation
MADE_BY = ("Software", "obsdiff")  # in a strip: key and value of a text of PNG
MADE_BY_WITHIN = 256  # bytes at the beginning of a strip that contain them
ATTRIBUTES = ".gitattributes"  # of every repository of the hub
LICENCE = re.compile(r"(licen[cs]e|notice)[\w.-]{0,60}", re.IGNORECASE)


def is_licence(name: str) -> bool:
    """Return whether a path, relative to the folder, is that of a licence or notice."""
    return bool(LICENCE.fullmatch(name))


def is_added(name: str) -> bool:
    """Return whether a published folder may have a file that its record does not know."""
    return name in (STRIP, ATTRIBUTES) or is_licence(name)


def is_strip(file: Path) -> bool:
    """Return whether a path is a regular file with a strip that obsdiff wrote."""
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as picture:
        return "\0".join(MADE_BY).encode() in picture.read(MADE_BY_WITHIN)
