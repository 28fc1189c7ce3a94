"""The flags that are made from PruningConfig, and MODEL among their values.

`--sparsity`, `--pattern`, `--include` and `--exclude` accept several values, so argparse adds a
MODEL that follows them to those values: `prune --sparsity 0.3 0.5 emoji-sd3 --output out`. Without
a MODEL elsewhere, `place_model` moves it back. The rule: MODEL is the last value of --sparsity or
--pattern if it is no share or no pattern; else the last value of --include or --exclude without *,
? and [. Of two such flags the later one counts, and the first value of a flag is always its own.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import PruningConfig
from ..config.choices import SHARES
from ..config.fields import CALIBRATION, SECTIONS, WHAT, help_of
from ..config.values import parse_group
from ..errors import UserError
from ..pipelines.builtin import BUILTINS
from .parsing import (
    decimal_number,
    number_or_all,
    rank_or_share,
    read_share,
    share_or_auto,
    whole_number,
)

SEVERAL = {  # flags of prune with several values: what these write
    "sparsity": "; several values write DIR/0.30, DIR/0.40 ... and share one calibration, "
    "except with live",
    "pattern": "; several values write DIR/unstructured-0.50, DIR/2-4 ...",
}
WILDCARDS = ("include", "exclude")
PROMPTS_HELP = (
    "calibration prompts, UTF-8: one a line, or the captions of .json, .jsonl, .csv or .tsv, or a "
    "folder of .txt files, one prompt each "
    "(default: a built-in's own, else 120 general captions of obsdiff)"
)
FROM_HELP = (
    "settings of an earlier run with its prompts (obsdiff.json), or of a .toml, .yaml or .json; "
    "flags given beside it win"
)


def add_settings(
    p: argparse.ArgumentParser, several: bool = False
) -> dict[str, "argparse._ArgumentGroup"]:
    """Add a flag for every field of PruningConfig, in groups by section, --prompts and --from.

    A flag that was not given is no attribute of the result, so defaults have one place.

    Args:
        p: the parser.
        several: whether sparsity and pattern accept several values.

    Returns:
        section -> its group of flags.
    """
    kinds = typing.get_type_hints(PruningConfig)
    groups = {section: p.add_argument_group(section) for section in SECTIONS}
    groups[CALIBRATION].add_argument("--prompts", metavar="FILE", type=Path, help=PROMPTS_HELP)
    groups[WHAT].add_argument("--from", dest="from_file", metavar="FILE", type=Path, help=FROM_HELP)
    for field in dataclasses.fields(PruningConfig):
        options = flag_options(field, kinds[field.name], several)
        groups[field.metadata["section"]].add_argument(flag_of(field.name), **options)
    return groups


def flag_of(name: str) -> str:
    """Return the flag of a setting: --num-prompts of num_prompts."""
    return "--" + name.replace("_", "-")


def flag_options(
    field: "dataclasses.Field[Any]", kind: object, several: bool = False
) -> dict[str, Any]:
    """Return the arguments of add_argument for a field of PruningConfig.

    Args:
        field: the field, made by `setting`.
        kind: its type.
        several: whether sparsity and pattern accept several values.

    Returns:
        Keyword arguments: help with the default, type, metavar, nargs or action.
    """
    many = field.name in WILDCARDS or (several and field.name in SEVERAL)
    text = help_of(field, SEVERAL.get(field.name, "") if several else "")
    options = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if bool in alternatives(kind):
        return options | {"action": argparse.BooleanOptionalAction}
    choices = field.metadata["choices"]
    options["metavar"] = field.metadata["metavar"] or "{" + ",".join(choices) + "}"
    return options | ({"nargs": "+"} if many else {"type": reader_of(field.name, kind)})


def alternatives(kind: object) -> tuple[object, ...]:
    """Return the types of a union, or the one type that is none."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def reader_of(name: str, kind: object) -> Callable[[str], Any]:
    """Return the function that converts the text of a flag to the type of its setting."""
    if name == "modulation":
        return share_or_auto
    if name == "low_rank":
        return rank_or_share
    if name in SHARES:
        return read_share
    kinds = alternatives(kind)
    if name == "tokens_per_column":
        return number_or_all
    return whole_number if int in kinds else decimal_number if float in kinds else str


def place_model(args: argparse.Namespace) -> None:
    """Set MODEL, if it was not found, from the last value of a flag; the flag loses that value.

    Raises:
        UserError: there is no MODEL.
    """
    given = vars(args)
    if given.get("model", "") is not None:
        return
    later_first = reversed(given_lists(args))
    for name in sorted(later_first, key=WILDCARDS.__contains__):  # wildcards last
        if len(given[name]) > 1 and not is_value(name, given[name][-1]):
            args.model = given[name].pop()
            return
    raise UserError(
        "MODEL: expected a folder, a hub id, a single-file checkpoint or a built-in "
        f"({', '.join(BUILTINS)}), found none; put it first (see {args.parser.prog} --help)"
    )


def read_lists(args: argparse.Namespace) -> None:
    """Convert the values of flags that accept several; raise UserError for one that is no share."""
    given = vars(args)
    for name in given_lists(args):
        try:
            given[name] = [READERS[name](text) for text in parts(name, given[name])]
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{name}: {error}") from None


def given_lists(args: argparse.Namespace) -> list[str]:
    """Return the given settings with several values, in the order of the command line."""
    return [
        name for name, value in vars(args).items() if name in READERS and isinstance(value, list)
    ]


def parts(name: str, values: list[str]) -> list[str]:
    """Split the values of --sparsity and --pattern at commas: 0.3,0.5 is two."""
    if name in WILDCARDS:
        return values
    return [part.strip() for value in values for part in value.split(",")]


def is_value(name: str, text: str) -> bool:
    """Return whether the last value of a flag is its own, and no MODEL."""
    if name in WILDCARDS:
        return any(character in text for character in "*?[")
    try:
        for part in parts(name, [text]):
            read_share(part) if name == "sparsity" else parse_group(part)
    except (argparse.ArgumentTypeError, UserError):
        return False
    return True


READERS: dict[str, Callable[[str], Any]] = {  # flags with several values: how one is read
    "sparsity": read_share,
    "pattern": str,
    "include": str,
    "exclude": str,
}
