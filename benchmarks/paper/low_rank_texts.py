"""The table of sparse plus low rank: weights stored, errors, ratio to the paper's method."""

import numpy as np

from ..tables.markdown import grid
from .low_rank import BASELINE, SEEDS, VARIANTS
from .prompt_errors import WORST, Kept, drawn_worse, errors_of, largest
from .table_texts import interval_of_mean


def low_rank_table(rows: dict[str, Kept]) -> str:
    """A line a variant: weights that are stored, error by set, ratio to the paper's method."""
    lines = []
    for name in VARIANTS:
        seeds = [s for s in SEEDS if all(f"{n}, seed {s}" in rows for n in (name, BASELINE))]
        if not seeds:
            continue
        names, bases = ([f"{n}, seed {seed}" for seed in seeds] for n in (name, BASELINE))
        mine = [rows[each] for each in names]
        errors, theirs = errors_of(mine), errors_of([rows[base] for base in bases])
        low, high = interval_of_mean((errors - theirs).mean(0))
        lines.append(
            [
                name,
                f"{stored(mine[0], rows):.0%}",
                ", ".join(f"{value:.4f}" for value in errors.mean(1)),
                f"{errors.mean():.4f}",
                largest(errors.mean(0)),
                f"{errors.mean() / theirs.mean():.2f}",
                f"{(errors - theirs).mean():+.4f} <sub>{low:+.4f} to {high:+.4f}</sub>",
                drawn_worse(rows, names, bases),
                f"{np.mean([row['solve_seconds'] for row in mine]):.0f}",
            ]
        )
    head = [
        "weights that are not zero",
        "error by set",
        "mean",
        WORST,
        f"of {BASELINE}'s",
        "difference",
        f"drawn worse than by {BASELINE}",
        "solving, s",
    ]
    return grid(["", *head], lines)


def stored(row: Kept, rows: dict[str, Kept]) -> float:
    """Weights of the pruned layers that are not zero, and those of corrections, of all of them."""
    plain = next(kept for name, kept in rows.items() if name.startswith(BASELINE))["cost"]
    added = row["cost"]["parameters"] - plain["parameters"]
    targeted = plain["zeros"] / 0.5
    return 1 - row["cost"]["zeros"] / targeted + added / targeted
