"""JSON files that hold the hash of their content, so that a changed or damaged one is found."""

import hashlib
import json
from pathlib import Path
from typing import Any

from .json_files import kept_json, write_json
from .strict_json import json_text


def content_hash(value: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of keys and the layout do not count."""
    plain = json.loads(json_text(value, None))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_hashed(file: Path, value: Any) -> None:
    """Write a JSON value whole, with its hash.

    Args:
        file: the file; missing folders above it are created.
        value: what json_text accepts.
    """
    write_json(file, {"sha256": content_hash(value), "value": value})


def read_hashed(file: Path) -> Any | None:
    """Return the value that write_hashed wrote; None if the file is missing, damaged or changed."""
    found = kept_json(file) or {}
    value = found.get("value")
    return value if found.get("sha256") == content_hash(value) else None
