"""JSON files: read, write whole, check against a schema."""

import json
from pathlib import Path
from typing import Any

from ..errors import UserError

LARGEST_SHOWN = 1e30  # what plots can show
WORDS = {str: "a text", int: "a whole number", float: "a number", dict: "an object", list: "a list"}


def read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing") from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{file} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file whole. ValueError for inf or NaN, which JSON does not have."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".part")
    beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(file)


def kept_json(file: Path) -> dict[str, Any] | None:
    """What an earlier run left; None if there is nothing, or nothing that can be read."""
    try:
        return read_json(file)
    except UserError:
        return None


def check_shapes(layers: list[dict[str, Any]], place: str) -> None:
    """ValueError for the first layer whose shape is not that of a matrix."""
    for i, layer in enumerate(layers):
        if len(layer["shape"]) != 2:
            raise ValueError(f"{place}[{i}].shape: expected two numbers, found {layer['shape']}")


def check_json(value: Any, wanted: Any, place: str) -> None:
    """ValueError unless a value is what is wanted at its place."""
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
    return f"{place}.{key}" if place else key


def expect(value: Any, kind: type, place: str) -> None:
    """ValueError unless a value is of a kind; yes and no are no numbers, infinite ones neither."""
    kinds = (int, float) if kind is float else kind
    is_number = kind in (int, float)
    if not isinstance(value, kinds) or (
        is_number and (isinstance(value, bool) or not abs(value) <= LARGEST_SHOWN)
    ):
        found = repr(value)
        raise ValueError(
            f"{place}: expected {WORDS[kind]}, found {found if len(found) <= 60 else found[:57] + '...'}"
        )
