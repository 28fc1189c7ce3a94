"""Stored measurements: read, or named as missing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from obsdiff.runtime.json_files import read_json

Kept = dict[str, Any]  # the content of one file of benchmarks/results/


class NotMeasured(Exception):
    """Figures of a table are missing, or were not measured under the same conditions.

    Args:
        command: measures them.
        why: what is wrong with the figures that exist.
    """

    def __init__(self, command: str, why: str = "") -> None:
        super().__init__(f"not measured{f' ({why})' if why else ''}: run {command}")


def read(file: Path, command: str) -> Kept:
    """Read a file of benchmarks/results/.

    Raises:
        NotMeasured: it does not exist.
    """
    if not file.exists():
        raise NotMeasured(command)
    return read_json(file)


def row_of(kept: Kept, name: str, command: str) -> Kept:
    """A row of a stored table.

    Raises:
        NotMeasured: the table has no such row.
    """
    if name not in kept["rows"]:
        raise NotMeasured(command, f"no row {name}")
    return kept["rows"][name]


def version_of(kept: Kept) -> int:
    """The version of the built-in model."""
    return kept.get("model_version", 1)


def prompts_of(kept: Kept) -> str:
    """Number and set of the prompts of the figures, such as "64 evaluation prompts"."""
    name, prompts = kept.get("prompt_set", "evaluation"), kept["prompts"]
    count = prompts[name] if isinstance(prompts, dict) else prompts
    return f"{count} {name.replace('_', '-')} prompts"


def agreed(values: Iterable[Any], what: str, command: str) -> Any:
    """The one value that several files share.

    Raises:
        NotMeasured: they differ.
    """
    found = sorted(set(values), key=str)
    if len(found) > 1:
        raise NotMeasured(command, f"different {what}: {', '.join(map(str, found))}")
    return found[0]
