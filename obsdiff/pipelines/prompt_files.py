"""Prompts from a file: one a line, or the captions of JSON, JSON Lines, CSV and TSV (no torch).

Or from a folder of .txt files, one prompt each.

A line ends at LF, CR LF or CR alone: text from the web and from PDFs has U+2028, form feeds and
U+0085 inside of prompts. A file of another format is refused by its name or its first bytes.
"""

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from ..runtime.regular_files import is_special
from .prompt_tables import Found, from_csv, from_json, from_json_lines, from_tsv, is_named

EXPECTED = (
    "expected UTF-8 text with one prompt a line, or .json, .jsonl, .csv or .tsv with the captions, "
    "or a folder of .txt files with one prompt each"
)
# formats that are refused by the name's ending, and some also by their first bytes
REFUSED = (
    *(".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".ods", ".db", ".sqlite", ".npy", ".npz"),
    *(".pkl", ".pickle", ".pt", ".safetensors", ".gz", ".zip", ".zst", ".xz", ".bz2", ".tar"),
    *(".yaml", ".yml", ".toml", ".xml", ".html", ".htm", ".docx", ".pdf"),
)
SIGNATURES = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"SQLite": "SQLite",
    b"%PDF": "PDF",
}
BROKEN_JSON = re.compile(r'\s*([\[{]\s*(\n|$)|\{\s*"|\[\s*["{])')  # no prompt begins like this


def read_prompts(file: Path) -> list[str]:
    """Read prompts from a UTF-8 file, or a folder of such; blank ones are skipped.

    Args:
        file: one prompt a line, or JSON, JSON Lines, CSV or TSV with the captions; or a folder of
            .txt files, which are read in the order of their names, one prompt each.

    Raises:
        UserError: the file can't be read, is not UTF-8, is of another format, has no prompt, or
            a prompt has a NUL character or half of a surrogate pair.
    """
    return [prompt for _, prompt in prompts_in(file)]


def prompts_in(file: Path) -> Found:
    """Return the prompts that read_prompts returns, each after its place: line 3, or 7.txt."""
    if file.is_dir():
        written = from_folder(file)
    else:
        text = read_text(file)
        written = READERS.get(file.suffix.lower(), from_text)(text, file)
    found = [(place, prompt.strip()) for place, prompt in written if prompt.strip()]
    if not found:
        raise UserError(f"prompts: {file} has no prompt: {EXPECTED}")
    for place, prompt in found:
        if wrong := unusable_character(prompt):
            raise UserError(f"prompts: {file}: {place} has {wrong}; remove it")
    return found


def from_folder(folder: Path) -> Found:
    """Return the content of every .txt file of a folder, its lines joined by spaces."""
    found = []
    for file in sorted(folder.glob("*.txt")):
        lines = (line.strip() for line in read_text(file).split("\n"))
        found.append((file.name, " ".join(filter(None, lines))))
    return found


def read_text(file: Path) -> str:
    """Return the text of a file without its byte order mark, every line end as LF."""
    suffix = file.suffix.lower()
    if suffix in REFUSED:
        raise UserError(
            f"prompts: {file} is a {suffix} file, which is not read; {EXPECTED}: save it as one"
        )
    if is_special(file):
        raise UserError(f"prompts: expected a file, found a pipe or device: {file}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"prompts: {file} can't be read: {error.strerror}") from None
    for signature, name in SIGNATURES.items():
        if content.startswith(signature):
            raise UserError(
                f"prompts: {file} is a {name} file, which is not read; {EXPECTED}: save it as one"
            )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"prompts: {file} is not UTF-8: "
            f"byte {error.start} is {error.object[error.start]:#04x}; save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def from_text(text: str, file: Path) -> Found:
    """Return the lines of a text, or the prompts of JSON that has another name."""
    if text.lstrip()[:1] in ("[", "{"):
        for read in (from_json, from_json_lines):
            try:
                return read(text, file)
            except UserError:
                raise
            except (ValueError, RecursionError):
                continue
        if BROKEN_JSON.match(text):
            raise UserError(
                f"prompts: {file} looks like JSON and can't be read as JSON; {EXPECTED}"
            )
    first, *_ = text.lstrip().split("\n", 1)
    for separator, name in (("\t", ".tsv"), (",", ".csv"), (";", ".csv")):
        cells = first.split(separator)
        if len(cells) > 1 and any(map(is_named, cells)) and all(map(str.isidentifier, cells)):
            raise UserError(
                f"prompts: {file} looks like a table, its first line is {first[:60]!r}: "
                f"rename it to {name}, or keep the prompts alone, one a line"
            )
    return [(f"line {i}", line) for i, line in enumerate(text.split("\n"), 1)]


def strictly(read: Callable[[str, Path], Found], name: str) -> Callable[[str, Path], Found]:
    """Return a reader whose errors about the format are UserErrors; `name` is the format's."""

    def reader(text: str, file: Path) -> Found:
        try:
            return read(text, file)
        except UserError:
            raise
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"prompts: {file} can't be read as {name}: {error or type(error).__name__}"
            ) from None

    return reader


def from_any_json(text: str, file: Path) -> Found:
    """Return the prompts of a JSON value, or of one value a line."""
    try:
        return from_json(text, file)
    except UserError:
        raise
    except ValueError as error:
        try:
            return from_json_lines(text, file)
        except UserError:
            raise
        except ValueError:
            raise error from None


READERS = {
    ".json": strictly(from_any_json, "JSON"),
    ".jsonl": strictly(from_json_lines, "JSON Lines"),
    ".ndjson": strictly(from_json_lines, "JSON Lines"),
    ".csv": strictly(from_csv, "CSV"),
    ".tsv": strictly(from_tsv, "TSV"),
}


def unusable_character(prompt: str) -> str:
    """Return which character no tokenizer or terminal takes, in words; "" if there is none."""
    if "\0" in prompt:
        return "a NUL character"
    half = half_of_pair(prompt)
    return f"half of a surrogate pair, {half!a}," if half else ""


def half_of_pair(text: str) -> str:
    """Return the first surrogate in a text, which no UTF-8 can hold; "" if there is none."""
    return next((letter for letter in text if "\ud800" <= letter <= "\udfff"), "")


def prompts_line(file: Path, read: int, asked: int) -> str:
    """Return the line about how many prompts a file has and how many were asked for.

    Args:
        file: the prompts' file.
        read: number of its prompts.
        asked: number of prompts that were asked for.
    """
    fewer = "; all are used" if read < asked else ""
    return f"prompts: {read} read from {file}, {asked} asked for (--num-prompts){fewer}"
