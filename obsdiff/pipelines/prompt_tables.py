"""The captions of JSON, JSON Lines, CSV and TSV, found by the name of their column.

    ["a cat", "a dog"]                           texts
    [{"caption": "a cat"}, ...]                  one object a prompt
    {"caption": ["a cat", ...], "id": [...]}     columns, also as pandas writes them
    {"annotations": [{"caption": "a cat"}]}      a list of objects in an object, as COCO has it
    {"0001": {"prompt": "a cat"}, ...}           an object of objects

Every text has its place in the file, for messages. Two columns that may be the captions, or none,
are refused by their names.
"""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UserError

CAPTIONS = ("caption", "captions", "prompt", "prompts", "text", "texts")  # in any case
NAMES_SHOWN = 8  # of columns, in a message
SHOWN = 40  # characters of a wrong value, in a message
Found = list[tuple[str, str]]  # place in the file, text


def is_named(name: Any) -> bool:
    """Return whether a column's name is one of CAPTIONS."""
    return isinstance(name, str) and name.strip().lower() in CAPTIONS


def caption_column(names: Iterable[Any], file: Path, place: str = "") -> str:
    """Return the name of the column with the captions.

    Args:
        names: of all columns.
        file: for the message.
        place: of the names in the file, for the message.

    Raises:
        UserError: none is named as captions are, or several.
    """
    names = list(names)
    found = [name for name in names if is_named(name)]
    if len(found) == 1:
        return found[0]
    where = f"prompts: {file}{': ' if place else ''}{place}"
    if found:
        raise UserError(
            f"{where}: expected one column of captions, found {' and '.join(map(repr, found))}; "
            "remove or rename all but one"
        )
    known = ", ".join(repr(name) for name in names[:NAMES_SHOWN])
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    raise UserError(
        f"{where}: expected a column named caption, prompt or text, found {known or 'none'}{more}; "
        "rename the one with the captions"
    )


def from_json(text: str, file: Path) -> Found:
    """Return the prompts of a JSON value; ValueError if the text is no JSON list or object."""
    value = json.loads(text)
    if not isinstance(value, list | dict):
        raise ValueError(f"expected a list or an object, found {short(value)}")
    return captions_of(value, file, "")


def from_json_lines(text: str, file: Path) -> Found:
    """Return the prompts of one JSON text or object a line; ValueError for any other line."""
    values = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            values.append((f"line {number}", value))
    return from_values(values, file)


def from_tsv(text: str, file: Path) -> Found:
    """Return the prompts of a table with tabs, by its header; csv.Error for broken quotes."""
    return from_rows(text, "\t", file)


def from_csv(text: str, file: Path) -> Found:
    """Return the prompts of a table with commas, semicolons or tabs, by its header."""
    for delimiter in (",", ";", "\t"):
        header = next(csv.reader(io.StringIO(text), delimiter=delimiter), [])
        if any(map(is_named, header)):
            return from_rows(text, delimiter, file)
    return from_rows(text, ",", file)


def from_rows(text: str, delimiter: str, file: Path) -> Found:
    """Return the captions of a table whose first row has the names of its columns.

    Raises:
        UserError: no column or several are named as captions are, a row has more or fewer cells
            than the header, or quotes are broken.
    """
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    found, index = [], 0
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            place = f"line {rows.line_num}"
            if header is None:
                header = row
                index = header.index(caption_column(header, file))
            elif len(row) != len(header):
                raise UserError(
                    f"prompts: {file}: {place} has {len(row)} cells, the header has {len(header)}; "
                    "put texts that contain the separator into quotes"
                )
            else:
                found.append((place, row[index]))
    except csv.Error as error:
        raise UserError(
            f"prompts: {file} can't be read as a table: line {rows.line_num}: {error}"
        ) from None
    return found


def captions_of(value: Any, file: Path, place: str) -> Found:
    """Return the captions of a JSON list or object; `place` is its path in the file."""
    if isinstance(value, list):
        return from_values([(f"{place}[{i}]", item) for i, item in enumerate(value)], file)
    if any(map(is_named, value)):
        key = caption_column(value, file, place)
        return column_of(value[key], file, path(place, key))
    tables = [
        key
        for key, part in value.items()
        if isinstance(part, list)
        and part
        and isinstance(part[0], dict)
        and any(map(is_named, part[0]))
    ]
    if len(tables) > 1:
        raise UserError(
            f"prompts: {file}: expected one list of captions, found "
            f"{' and '.join(map(repr, tables))}; remove all but one"
        )
    if tables:
        return captions_of(value[tables[0]], file, path(place, tables[0]))
    if value and all(isinstance(part, dict) for part in value.values()):
        return from_values([(path(place, key), part) for key, part in value.items()], file)
    caption_column(value, file, place)  # raises: none of its names is that of captions
    return []


def column_of(value: Any, file: Path, place: str) -> Found:
    """Return the texts of a column: a list, an object by row, a single text, or a table."""
    if isinstance(value, str):
        return [(place, value)]
    if isinstance(value, dict) and all(isinstance(part, str) for part in value.values()):
        return [(path(place, key), part) for key, part in value.items()]
    if isinstance(value, list | dict):
        return captions_of(value, file, place)
    raise not_text(file, place, value)


def from_values(values: list[tuple[str, Any]], file: Path) -> Found:
    """Return the texts of values that are all texts, or all objects with one caption column."""
    if not values:
        return []
    if isinstance(values[0][1], dict):
        for place, value in values:
            if not isinstance(value, dict):
                raise UserError(
                    f"prompts: {file}: {place}: expected an object as {values[0][0]} is, found "
                    f"{short(value)}"
                )
        texts = [
            (path(place, key := caption_column(value, file, place)), value[key])
            for place, value in values
        ]
    else:
        texts = values
    for place, text in texts:
        if not isinstance(text, str):
            raise not_text(file, place, text)
    return texts


def not_text(file: Path, place: str, value: Any) -> UserError:
    """Return the error about a value that is no text."""
    return UserError(f"prompts: {file}: {place}: expected a text, found {short(value)}")


def path(place: str, key: str) -> str:
    """Return the path of a key, such as annotations[2].caption."""
    return f"{place}.{key}" if place else key


def short(value: Any) -> str:
    """Return a value as JSON, cut after SHOWN characters."""
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
