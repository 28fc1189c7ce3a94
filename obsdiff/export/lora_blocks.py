"""Block numbers of a LoRA made for the dense model, in a folder from which blocks were removed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError
from ..pipelines.record import RECORD, read_record
from ..runtime.json_files import check_json

WANTED = {
    "component": str,
    "config": {"pattern": str},
    "depth": {"kept": {"*": [int]}},
    "groups": [{"owner": str, "total": int}],
}
Value = TypeVar("Value")


def kept_blocks(folder: Path) -> tuple[str, dict[str, list[int]]]:
    """Return the component from which whole blocks were removed, and the numbers of those left.

    Args:
        folder: a pipeline folder.

    Returns:
        The component, and for each list of blocks the former number of each block that is left;
        "" and {} for a folder without a record, or of another pattern.

    Raises:
        UserError: the record can't be read.
    """
    if not (folder / RECORD).is_file():
        return "", {}
    record = read_record(folder)
    config: Any = record.get("config")
    if not isinstance(config, dict) or config.get("pattern") != "depth":
        return "", {}
    try:
        check_json(record, WANTED, "")
        for name, numbers in record["depth"]["kept"].items():
            if numbers != sorted({n for n in numbers if n >= 0}):
                raise ValueError(f"depth.kept.{name}: expected ascending numbers")
    except ValueError as error:
        raise UserError(
            f"{folder / RECORD}: {error}; the blocks that are left are unknown"
        ) from None
    return record["component"], record["depth"]["kept"]


def require_former(
    tensors: Mapping[str, Value], component: str, kept: Mapping[str, list[int]], folder: Path
) -> None:
    """Check that the model from which blocks were removed had the blocks of a LoRA.

    Args:
        tensors: the LoRA, as in renumbered.
        component: the component from which blocks were removed.
        kept: for each list of blocks the former numbers of those that are left.
        folder: the pipeline folder; kept_blocks has checked its record.

    Raises:
        UserError: it lacked one: blocks were removed from it, too.
    """
    if not kept:
        return
    groups: Any = read_record(folder)["groups"]
    for owner, total in ((group["owner"], group["total"]) for group in groups):
        pattern = re.compile(rf"{re.escape(f'{component}.{owner}')}\.(\d+)\.")
        numbers = [int(match[1]) for name in tensors if (match := pattern.match(name))]
        if max(numbers, default=0) >= max(total, 1):
            raise UserError(
                f"LoRA: expected blocks of {owner} below {total}, as the model had from which "
                f"{folder} was made, found {max(numbers)}; where --pattern depth made that model, "
                "too, number the LoRA anew for its folder first"
            )


def renumbered(
    tensors: Mapping[str, Value], component: str, kept: Mapping[str, list[int]]
) -> dict[str, Value]:
    """Return a LoRA with the numbers of the blocks that are left, without those of other blocks.

    Args:
        tensors: the LoRA by its names, such as transformer.transformer_blocks.7.attn.to_q....
        component: the component from which blocks were removed.
        kept: for each list of blocks the former numbers of those that are left.
    """
    found: dict[str, Value] = {}
    for name, tensor in tensors.items():
        for owner, numbers in kept.items():
            match = re.fullmatch(rf"({re.escape(f'{component}.{owner}')})\.(\d+)(\..+)", name)
            if match is None:
                continue
            if int(match[2]) in numbers:
                found[f"{match[1]}.{numbers.index(int(match[2]))}{match[3]}"] = tensor
            break
        else:
            found[name] = tensor
    return found
