"""JSON files: read, write whole, check against a schema.

A schema has the structure of the value it describes:

    {"name": str, "size": int}    an object with these keys; int and float exclude booleans
    {"comment?": str}             an optional key
    {"*": float}                  an object with any keys, whose values have one type
    [str]                         a list of any length
    (float,)                      a number or null
"""

from pathlib import Path
from typing import Any

from ..errors import UserError
from .regular_files import require_regular
from .strict_json import json_text, parse_json
from .whole_files import write_whole

LARGEST_FILE = 32_000_000  # bytes; in memory a JSON file takes up to 30 times its size
LARGEST_SHOWN = 1e30  # largest number that plots can show
LONGEST_SHOWN = 60  # characters of a wrong value in an error message
WORDS = {str: "a text", int: "a whole number", float: "a number", dict: "an object", list: "a list"}


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a UTF-8 file.

    Raises:
        UserError: the file is missing or no regular file, is not JSON, or contains another value
            than an object.
    """
    try:
        size = require_regular(file).st_size
        if size > LARGEST_FILE:
            raise UserError(
                f"{file} has {size} bytes: expected a JSON file of at most {LARGEST_FILE}"
            )
        value = parse_json(file.read_text(encoding="utf-8"))
    except UserError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{file} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file whole: under a new name first, then renamed.

    Args:
        file: the file; missing folders above it are created.
        value: what json.dumps accepts; inf and NaN as strict_json.py writes them.
    """
    text = json_text(value) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text)


def kept_json(file: Path) -> dict[str, Any] | None:
    """Return the JSON object that an earlier run wrote; None if there is no readable one."""
    try:
        return read_json(file)
    except UserError:
        return None


def check_shapes(layers: list[dict[str, Any]], place: str) -> None:
    """Check that the shape of every layer is (O, I).

    Args:
        layers: records with the key "shape".
        place: path of the list in its file, for the message.

    Raises:
        ValueError: a shape has another number of entries than two.
    """
    for i, layer in enumerate(layers):
        if len(layer["shape"]) != 2:
            raise ValueError(f"{place}[{i}].shape: expected two numbers, found {layer['shape']}")


def check_json(value: Any, wanted: Any, place: str) -> None:
    """Check a value against a schema.

    Args:
        value: a value as json.loads returns it.
        wanted: the schema, as the module's docstring describes it.
        place: path of the value in its file, for the message; "" for the whole file.

    Raises:
        ValueError: the value differs from the schema; the message names the place.
    """
    if isinstance(wanted, tuple):
        if value is not None:
            check_json(value, wanted[0], place)
    elif isinstance(wanted, dict):
        expect(value, dict, place)
        check_keys(value, wanted, place)
    elif isinstance(wanted, list):
        expect(value, list, place)
        for i, element in enumerate(value):
            check_json(element, wanted[0], f"{place}[{i}]")
    else:
        expect(value, wanted, place)


def check_keys(value: dict[str, Any], wanted: dict[str, Any], place: str) -> None:
    """Check the keys and values of an object; ValueError for a missing or wrong one."""
    for key, inner in wanted.items():
        name = key.removesuffix("?")
        if key == "*":
            for any_key, element in value.items():
                check_json(element, inner, key_path(place, any_key))
        elif name in value:
            check_json(value[name], inner, key_path(place, name))
        elif name == key:
            raise ValueError(f"{key_path(place, name)} is missing")


def key_path(place: str, key: str) -> str:
    """Return the path of a key in its file, such as "config.pattern"."""
    return f"{place}.{key}" if place else key


def expect(value: Any, kind: type, place: str) -> None:
    """Check a value's type; ValueError also for a boolean or infinite value as a number."""
    if kind in (int, float):
        kinds = (int, float) if kind is float else (int,)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        good = is_number and abs(value) <= LARGEST_SHOWN
    else:
        good = isinstance(value, kind)
    if not good:
        found = repr(value)
        if len(found) > LONGEST_SHOWN:
            found = found[: LONGEST_SHOWN - 3] + "..."
        raise ValueError(f"{place}: expected {WORDS[kind]}, found {found}")
