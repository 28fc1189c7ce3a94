"""The table of rounded weights: bytes, errors, what rounding adds to the same pruning alone."""

import numpy as np

from ..tables.markdown import grid
from .bits import SEEDS, VARIANTS
from .prompt_errors import WORST, Kept, drawn_worse, errors_of, largest
from .table_texts import interval_of_mean


def bits_table(rows: dict[str, Kept]) -> str:
    """A line a variant: bytes, error by set, and the error that rounding adds, of nearest's."""
    lines = []
    for name in VARIANTS:
        seeds = [seed for seed in SEEDS if f"{name}, seed {seed}" in rows]
        if not seeds:
            continue
        mine = [rows[f"{name}, seed {seed}"] for seed in seeds]
        errors = errors_of(mine)
        added = added_by(name, rows, seeds)
        nearest = added_by(f"{name} nearest", rows, seeds) if "int" in name else None
        low, high = interval_of_mean(added.mean(0)) if added is not None else (0.0, 0.0)
        lines.append(
            [
                name,
                f"{mine[0]['stored_bytes'] / 1e6:.1f}",
                ", ".join(f"{value:.5f}" for value in errors.mean(1)),
                f"{errors.mean():.5f}",
                largest(errors.mean(0)),
                f"{added.mean():+.5f} <sub>{low:+.5f} to {high:+.5f}</sub>"
                if added is not None
                else "",
                f"{added.mean() / nearest.mean():.2f}"
                if added is not None and nearest is not None
                else "",
                *(worse_than(base, name, rows, seeds) for base in bases_of(name)),
            ]
        )
    head = ["stored, MB", "error by set", "mean", WORST, "added by rounding", "of nearest's"]
    worse = ["drawn worse than without rounding", "than by nearest"]
    return grid(["", *head, *worse], lines)


def bases_of(name: str) -> tuple[str, str]:
    """The base lines of a variant: the same pruning without rounding, and rounded to nearest."""
    return name.partition(" + ")[0], f"{name} nearest"


def worse_than(base: str, name: str, rows: dict[str, Kept], seeds: list[int]) -> str:
    """The share of prompts that a variant draws worse than a base line; nothing beside dense."""
    mine, theirs = ([f"{each}, seed {seed}" for seed in seeds] for each in (name, base))
    return drawn_worse(rows, mine, theirs)


def added_by(name: str, rows: dict[str, Kept], seeds: list[int]) -> np.ndarray | None:
    """The errors that rounding adds to a variant (sets, prompts); None for one without rounding."""
    plain = name.partition(" + ")[0]
    names = [f"{name}, seed {seed}" for seed in seeds]
    if name == plain or any(each not in rows for each in names):
        return None
    errors = errors_of([rows[each] for each in names])
    if plain == "dense":
        return errors
    before = [f"{plain}, seed {seed}" for seed in seeds]
    if any(each not in rows for each in before):
        return None
    return errors - errors_of([rows[each] for each in before])
