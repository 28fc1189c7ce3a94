"""The free room of a disk."""

import shutil
from pathlib import Path


def free_disk(place: Path) -> int:
    """Return the free bytes of the disk of a folder or file that need not exist."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
