"""Values as strict JSON, which has no inf and no NaN: they are written as an object, and read back.

    inf  <->  {"$float": "inf"}        also "-inf" and "nan"

An object that has the one key "$float" by itself is written with its value in a list, so every
value is read as it was.
"""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

TAG = "$float"
NUMBERS = ("inf", "-inf", "nan")


def json_text(value: Any, indent: int | None = 1) -> str:
    """Return a value as strict JSON.

    Args:
        value: what json.dumps accepts; numbers may be infinite or NaN.
        indent: spaces of each level; None for one line.
    """
    return json.dumps(encoded(value), indent=indent, allow_nan=False)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; json_text's inverse."""
    return json.loads(text, object_hook=decoded)


def as_written(value: Any) -> Any:
    """Return a value as it is once written and read: tuples are lists, keys are texts."""
    return parse_json(json_text(value))


def encoded(value: Any) -> Any:
    """Return a value with an object in the place of each number that JSON lacks."""
    if isinstance(value, float):
        return value if isfinite(value) else {TAG: str(float(value))}
    if isinstance(value, list | tuple):
        return [encoded(part) for part in value]
    if isinstance(value, Mapping):
        found = {key: encoded(part) for key, part in value.items()}
        return {TAG: [found[TAG]]} if found.keys() == {TAG} else found
    return value


def decoded(found: dict[str, Any]) -> Any:
    """Return the number, or the object, that an object in a JSON text stands for."""
    if found.keys() != {TAG}:
        return found
    inside = found[TAG]
    if isinstance(inside, str) and inside in NUMBERS:
        return float(inside)
    return {TAG: inside[0]} if isinstance(inside, list) and len(inside) == 1 else found
