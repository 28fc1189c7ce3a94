"""What `obsdiff push` changes in a card, and the files that it adds: no record has their hashes.

Names alone; no torch.
"""

import re

PLACE = "PATH OF THIS FOLDER"  # in the code of a card; on the hub the repository's name
STRIP = "strip.png"  # pictures of an evaluation
ATTRIBUTES = ".gitattributes"  # of every repository of the hub
LICENCE = re.compile(r"(licen[cs]e|notice)[\w.-]{0,60}", re.IGNORECASE)


def is_licence(name: str) -> bool:
    """Return whether a path, relative to the folder, is that of a licence or notice."""
    return bool(LICENCE.fullmatch(name))


def is_added(name: str) -> bool:
    """Return whether a published folder may have a file that its record does not know."""
    return name in (STRIP, ATTRIBUTES) or is_licence(name)
