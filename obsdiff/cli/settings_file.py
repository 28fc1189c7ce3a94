"""--from FILE: the settings of an earlier run, or of a file in TOML, YAML or JSON (no torch).

The record of a run (obsdiff.json) also has its prompts; the device and its offload are left to the
machine that runs now. Flags that are given beside the file win, also over what contradicts them.

Values of YAML are read as those of flags are, since YAML's own rules make the number 124 of 2:4. A
YAML file with references to other parts of itself is refused: a short one can stand for gigabytes.
"""

import argparse
import dataclasses
import os
import sys
import tomllib
import typing
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from ..config import PruningConfig
from ..config.choices import BUDGETS
from ..config.values import did_you_mean
from ..errors import UserError
from ..pipelines.prompt_files import unusable_character
from ..runtime.json_files import read_json
from ..runtime.regular_files import require_regular
from .flags import WILDCARDS, alternatives, reader_of

LARGEST_FILE = 100_000  # bytes of a file in TOML or YAML
PLACES = ("device", "offload", "offload_device")  # of a record: what its machine had
FORMER = {"step_share": 1.0}  # what a record that was written before a setting existed ran with
AMOUNTS = ("sparsity", *BUDGETS)  # one of them says how much
INSTEAD = {  # a flag -> settings of the file that it replaces beside its own
    **{name: tuple(other for other in AMOUNTS if other != name) for name in AMOUNTS},
    "packages": ("memory_budget_gib",),
    "memory_budget_gib": ("packages",),
}
FILLING = {"preset", "pattern", *AMOUNTS}  # flags that fill in others
LISTS = ("sparsity", "pattern")  # settings with several values for some commands
KINDS = typing.get_type_hints(PruningConfig)
NAMES = [field.name for field in dataclasses.fields(PruningConfig)]
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
SHOWN = 60  # characters of a wrong value in an error message


def read_settings_file(args: argparse.Namespace) -> None:
    """Add the settings of --from to the arguments, unless they were given as flags.

    Sets `recorded_prompts` to the prompts of a record, else to None.

    Args:
        args: the arguments of a command with settings.

    Raises:
        UserError: the file can't be read, or has another key than a setting.
    """
    args.recorded_prompts = None
    if (file := getattr(args, "from_file", None)) is None:
        return
    if not os.path.lexists(file):
        raise UserError(
            f"from: expected the obsdiff.json of a run, or a file of settings, found no {file}; "
            "check the path"
        )
    record = read_record_of(file)
    settings = checked(FORMER | record["config"] if record else read_file(file), file)
    if record:
        settings = {name: value for name, value in settings.items() if name not in PLACES}
        args.recorded_prompts = texts_of(record)
    given = vars(args).keys() & set(NAMES)
    for name, value in left_by(settings, given, args).items():
        setattr(args, name, value)


def read_record_of(file: Path) -> dict[str, Any] | None:
    """Return the record in a file; None if the file has settings alone.

    Raises:
        UserError: the file is no JSON, TOML or YAML by its name, or is damaged.
    """
    suffix = file.suffix.lower()
    if suffix not in (".json", *READERS):
        raise UserError(
            "from: expected the obsdiff.json of a run, or settings in .toml, .yaml or .json; "
            f"found {str(file)!r}"
        )
    if suffix != ".json":
        return None
    found = read_json(file)
    return found if isinstance(found.get("config"), dict) and "schema" in found else None


def read_file(file: Path) -> dict[str, Any]:
    """Return the keys and values of a file with settings; UserError if it can't be read."""
    if file.suffix.lower() == ".json":
        return read_json(file)
    size = require_regular(file).st_size
    if size > LARGEST_FILE:
        raise UserError(f"from: {file} has {size} bytes: expected settings, at most {LARGEST_FILE}")
    try:
        found = READERS[file.suffix.lower()](file.read_text(encoding="utf-8"))
    except UserError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"from: {file} can't be read: {reason}") from None
    return found


def read_yaml(text: str) -> dict[str, Any]:
    """Return the keys of a YAML mapping, with values as texts, lists of texts or None.

    Raises:
        ValueError: it is no YAML, no mapping, or has references.
        UserError: PyYAML is not installed.
    """
    try:
        yaml: Any = import_module("yaml")  # of huggingface_hub
    except ImportError as error:
        raise UserError("from: a YAML file needs PyYAML: pip install pyyaml") from error
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has a reference (*name), which settings do not need")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("expected lines such as `sparsity: 0.3`")
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in found:
            raise ValueError(f"line {key.start_mark.line + 1}: expected one setting, each once")
        found[key.value] = yaml_value(key.value, value, yaml)
    return found


def yaml_value(name: str, node: Any, yaml: Any) -> Any:
    """Return the value of a node: a text read as the setting's flag, a list of them, or None."""
    if isinstance(node, yaml.SequenceNode):
        return [yaml_value(name, one, yaml) for one in node.value]
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"{name}: expected a value, found a mapping")
    if node.style is None and node.value.lower() in ("", "~", "null"):
        return None
    return by_flag(name.replace("-", "_"), node.value)


def by_flag(name: str, text: str) -> Any:
    """Return a text as the flag of a setting reads it; the text itself for an unknown one."""
    kind = KINDS.get(name, str)
    if bool in alternatives(kind):
        return WORDS.get(text.lower(), text)
    if name in NAMES and kind != tuple[str, ...]:
        try:
            return reader_of(name, kind)(text)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{name}: {error}") from None
    return text


READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    ".toml": tomllib.loads,
    ".yaml": read_yaml,
    ".yml": read_yaml,
}


def checked(found: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the settings of a file that have a value, by the names of PruningConfig's fields.

    Raises:
        UserError: a key is no setting, or a value has another type than the setting.
    """
    settings = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in NAMES:
            raise UserError(
                f"from: {file}: expected settings of obsdiff prune, found {key[:SHOWN]!r}"
                f"{did_you_mean(name, NAMES)}"
            )
        if name in settings:
            raise UserError(f"from: {file}: {name} is there twice")
        if value is not None:
            require_kind(name, value, file)
            settings[name] = value
    return settings


def require_kind(name: str, value: Any, file: Path) -> None:
    """Raise UserError unless a value has the type of a setting; its range is checked later."""
    several = value if isinstance(value, list) and name in (*LISTS, *WILDCARDS) else [value]
    empty = not several and name in LISTS
    if empty or not all(is_of_kind(name, one) for one in several):
        found = type(value).__name__ if isinstance(value, list | dict) else f"{value!r:.{SHOWN}}"
        raise UserError(f"from: {file}: {name}: expected a value as its flag has, found {found}")


def is_of_kind(name: str, value: Any) -> bool:
    """Return whether a single value has the type of a setting; a share may be a text."""
    kinds = alternatives(KINDS[name])
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int | float):
        finite = abs(value) <= sys.float_info.max
        return finite and (float in kinds or (int in kinds and isinstance(value, int)))
    return (
        isinstance(value, str)
        and bool not in kinds
        and (name in AMOUNTS or str in kinds or KINDS[name] == tuple[str, ...])
    )


def left_by(
    settings: dict[str, Any], given: Iterable[str], args: argparse.Namespace
) -> dict[str, Any]:
    """Return the settings of a file that no flag replaces.

    A flag replaces its own setting, and those that say the same in another way. A preset, a
    pattern or an amount also replaces what the file's own preset and defaults have filled in.

    Args:
        settings: of the file.
        given: names of the settings that were given as flags.
        args: the arguments of the command.
    """
    given = set(given)
    gone = given | {other for name in given for other in INSTEAD.get(name, ())}
    pattern = getattr(args, "pattern", None)
    if pattern and ":" in str(pattern):
        gone |= set(AMOUNTS)  # an N:M pattern fixes it
    if given & FILLING and not any(isinstance(settings.get(name), list) for name in LISTS):
        config = PruningConfig(**settings)
        gone |= {name for name, value in config.defaults().items() if settings.get(name) == value}
    return {name: value for name, value in settings.items() if name not in gone}


def texts_of(record: dict[str, Any]) -> list[str] | None:
    """Return the prompts of a record; None if some were no texts, but arguments from Python."""
    prompts = record.get("prompts")
    if not isinstance(prompts, list) or not prompts:
        return None
    usable = (isinstance(p, str) and p.strip() and not unusable_character(p) for p in prompts)
    return prompts if all(usable) else None
