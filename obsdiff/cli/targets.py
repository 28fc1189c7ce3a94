"""The prunings of a run: one for each pattern and sparsity that was given."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import PruningConfig
from ..errors import UserError
from .commands import config_of


@dataclass(frozen=True)
class PruneTarget:
    """One pruning of a run."""

    name: str  # 0.30; with several patterns unstructured-0.30 or 2-4
    config: PruningConfig
    folder: Path  # of the pruned pipeline, relative to OUTPUT: name, or . if it is the only one


def prune_targets(args: argparse.Namespace) -> list[PruneTarget]:
    """Return one target for each pattern and sparsity that was given."""
    configs = all_configs(args)
    names = folder_names(configs)
    return [
        PruneTarget(name, config, Path(name) if len(configs) > 1 else Path())
        for name, config in zip(names, configs, strict=True)
    ]


def all_configs(args: argparse.Namespace) -> list[PruningConfig]:
    """Return one config for each pattern and sparsity; an N:M pattern has one, without sparsity."""
    sparsities, patterns = (several(args, name) for name in ("sparsity", "pattern"))
    for name, values in (("sparsity", sparsities), ("pattern", patterns)):
        if len(set(values)) < len(values):
            raise UserError(
                f"{name}: expected different values, found the same twice: "
                f"{' '.join(map(str, values))}"
            )
    given = [{} if pattern is None else {"pattern": pattern} for pattern in patterns]
    mixed = len(patterns) > 1
    return [
        config_of(args, **one, sparsity=s)
        for one in given
        for s in ([None] if mixed and ":" in one["pattern"] else sparsities)
    ]


def several(args: argparse.Namespace, name: str) -> list[Any]:
    """Return the values of a setting: several of a flag, one of a file, or [None]."""
    found = getattr(args, name, None)
    return found if isinstance(found, list) else [found]


def folder_names(configs: list[PruningConfig]) -> list[str]:
    """Return a folder name for each config.

    Args:
        configs: the prunings of the run.

    Returns:
        0.30 ..., or with several patterns unstructured-0.30, 2-4 ...

    Raises:
        UserError: two have the same name.
    """
    mixed = len({config.pattern for config in configs}) > 1
    names = [f"{config.removed:.2f}" for config in configs]
    if mixed:
        names = [
            c.pattern.replace(":", "-") if c.group else f"{c.pattern}-{name}"
            for c, name in zip(configs, names, strict=True)
        ]
    if len(set(names)) < len(names):
        found = " ".join(f"{config.removed:g}" for config in configs)
        raise UserError(
            "sparsity: several values are written into folders named by two decimals, so expected "
            f"values that differ there; found {found}"
        )
    return names
