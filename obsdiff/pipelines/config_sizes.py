"""Numbers of a component's config, compared with its tensors before anything is built.

A config decides how many modules a library builds, how wide they are and how long its tables of
positions are. Each count is compared with the numbers in the tensors' names, each size with the
largest side of a tensor. The libraries compare the exact shapes later. Imports no torch.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.json_files import read_json
from .headers import Tensors
from .own_code import settings_of, shown

COUNTS = re.compile(r"layers|blocks|depth|n_layer|stages|experts")  # how many modules
LISTS = re.compile(r"block|channels|layers|depth|heads|stages")  # one entry for each module
# no size of anything that is built
FREE = re.compile(
    r"token|theta|pixels|window|timesteps|_ids?$|index|freq|period|scale|factor|distance|seed"
    r"|length|seq|frames|fps|base|revision|version|steps"
)
POSITIONS = re.compile(r"position|max_|vocab|codebook|classes|embeds")  # rows of a table
AREAS = ("sample_size", "sample_height", "sample_width", "image_size", "pos_embed_max_size")
NEVER_ZERO = (
    *AREAS,
    "patch_size",
    "num_attention_heads",
    "num_heads",
    "attention_head_dim",
    "in_channels",
    "hidden_size",
    "norm_num_groups",
    "latent_channels",
)
FEW = (12, 24)  # modules of a number and of a list's entry, whatever the names of tensors say
USUAL_COUNT = 200  # modules of a config without weights, or of one inside another
USUAL_SIDE = 2**16  # of a config without weights, and of what has no tensor
LONGEST_TABLE = 2**23  # positions
LONGEST_SIDE = 2**16  # of a picture or of latents
MOST_TOKENS = 2**16  # of a picture of the config's own size
LONGEST_LIST = 2**16


@dataclass(frozen=True)
class Bounds:
    """What the tensors of a component allow.

    Attributes:
        count: modules of one kind.
        side: of a tensor.
        listed: entries of a list with one for each module.
        stacked: modules whose weights are one tensor.
        tables: sides of the tables of positions.
    """

    count: int
    side: int
    listed: int
    stacked: int = 0
    tables: frozenset[int] = frozenset()


def bounds_of(tensors: Tensors) -> Bounds:
    """Return what the tensors of a component allow."""
    if not tensors.shapes:
        return Bounds(USUAL_COUNT, USUAL_SIDE, USUAL_COUNT)
    numbers = (int(n) for name in tensors.shapes for n in re.findall(r"\.(\d{1,9})\.", name))
    shapes = tensors.shapes.values()
    return Bounds(
        count=1 + max(numbers, default=0),
        side=max(USUAL_SIDE, *(side for shape in shapes for side in shape)),
        listed=len(shapes),
        stacked=max((shape[0] for shape in shapes if len(shape) == 3), default=0),
        tables=frozenset(
            s for n, shape in tensors.shapes.items() if "pos_embed" in n for s in shape
        ),
    )


def check_config_sizes(file: Path, tensors: Tensors) -> None:
    """Check the numbers of a component's config.json.

    Args:
        file: the config.json.
        tensors: the component's tensors; empty without weights.

    Raises:
        UserError: a number contradicts the tensors; the message names the setting.
    """
    bounds, config = bounds_of(tensors), read_json(file)
    for path, key, value in settings_of(config):
        inside = "." in path or "[" in path
        for wrong, expected in wrong_numbers(key, value, bounds, inside):
            raise UserError(
                f"{file}: {path} is {shown(wrong)}: expected {expected}, by the weights beside it; "
                "fetch the config again"
            )
    check_areas(file, config, bounds)


def wrong_numbers(key: str, value: Any, bounds: Bounds, inside: bool) -> Iterator[tuple[Any, str]]:
    """Yield each number of a setting that is out of bounds, with what was expected.

    Args:
        key: the setting.
        value: its value; lists may be nested.
        bounds: what the tensors allow.
        inside: whether the setting is that of a config inside another, which may have no weights.
    """
    longest = bounds.listed if LISTS.search(key) else LONGEST_LIST
    for each in flat(value):
        if isinstance(each, list):
            if len(each) > max(longest, 1) and not inside:
                yield f"a list of {len(each)}", f"at most {longest} entries"
        elif isinstance(each, int | float) and not isinstance(each, bool):
            least, most = limits(key, bounds, inside, isinstance(value, list))
            if not least <= each <= most:
                yield each, f"a number from {least} to {most}"


def flat(value: Any) -> Iterator[Any]:
    """Yield a value; of a list also the inner values, at any depth of lists."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        yield each
        if isinstance(each, list):
            waiting += each


def limits(key: str, bounds: Bounds, inside: bool, listed: bool) -> tuple[float, float]:
    """Return the least and the largest value of a setting."""
    least = 1 if key in NEVER_ZERO and not listed else 0
    if COUNTS.search(key) and not key.startswith("max_"):
        most = max(bounds.count, USUAL_COUNT if inside else FEW[listed])
        return -1 if listed else 0, max(most, bounds.stacked) if "experts" in key else most
    if key in AREAS:
        return least, LONGEST_SIDE
    if FREE.search(key):
        return -math.inf, math.inf
    if POSITIONS.search(key):
        return -math.inf, LONGEST_TABLE
    return least if key in NEVER_ZERO else -USUAL_SIDE, bounds.side


def check_areas(file: Path, config: dict[str, Any], bounds: Bounds) -> None:
    """Check the tables of positions that a library computes for the config's own picture size.

    Raises:
        UserError: a table is far larger than those of any model.
    """
    table = config.get("pos_embed_max_size")
    sides = bounds.tables or range(1, USUAL_SIDE + 1)
    if type(table) is int and table * table not in sides and table not in bounds.tables:
        raise UserError(
            f"{file}: pos_embed_max_size is {table}: expected the number of positions that the "
            "weights beside it have; fetch the config again"
        )
    patch = config.get("patch_size")
    for key in ("sample_size", "image_size"):
        size = config.get(key)
        if type(patch) is int and type(size) is int and (size // patch) ** 2 > MOST_TOKENS:
            raise UserError(
                f"{file}: {key} is {size} with patches of {patch}: expected at most {MOST_TOKENS} "
                "patches; fetch the config again"
            )
