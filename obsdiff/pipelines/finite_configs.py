"""Settings of a pipeline that are no finite number: NaN is refused, and so is inf but for defaults.

Python reads NaN, Infinity and 1e999 in a JSON file as numbers. A few settings of diffusers'
schedulers are infinite by default, which turns them off.
"""

from collections.abc import Iterable
from math import inf, isfinite
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.json_files import read_json

INFINITE = {"lambda_min_clipped": -inf}  # settings with an infinite default


def require_finite_files(folders: Iterable[Path]) -> None:
    """Check the files *config.json of some folders.

    Args:
        folders: the folders of a pipeline's components.

    Raises:
        UserError: a setting is NaN or infinite; the message names the file and the setting.
    """
    for folder in folders:
        for file in sorted(folder.glob("*config.json")):
            if file.is_file():
                require_finite(read_json(file), str(file))


def require_finite(config: Any, place: str) -> None:
    """Check that all numbers of a config are finite, but for the infinite defaults.

    Args:
        config: a value as JSON has it.
        place: the file or component that it is from, for the message.

    Raises:
        UserError: a setting is NaN or infinite; the message names it.
    """
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, float) and not isfinite(value) and INFINITE.get(name) != value:
            raise UserError(f"{place}: {name} is {value}: expected a finite number; correct it")
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}" if name else str(key), v) for key, v in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{name}[{i}]", part) for i, part in enumerate(value)]
