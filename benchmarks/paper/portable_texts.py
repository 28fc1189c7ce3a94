"""The table of portable against heads and neurons: parameters, errors, ratio."""

import numpy as np

from ..tables.markdown import grid
from .portable import BOTH, PORTABLE, SEEDS, TARGETS, left, name_of
from .prompt_errors import Kept, drawn_worse, errors_of, largest
from .table_texts import interval_of_mean


def portable_table(rows: dict[str, Kept]) -> str:
    """A line a target: parameters left, error by calibration set of both kinds, `off`."""
    lines = []
    for target in TARGETS:
        seeds = [
            seed
            for seed in SEEDS
            if all(name_of(kind, target, seed) in rows for kind in (PORTABLE, BOTH))
        ]
        if not seeds:
            continue
        names = {k: [name_of(k, target, seed) for seed in seeds] for k in (PORTABLE, BOTH)}
        shares = [left(rows, name) for name in names[PORTABLE]]
        mine, both = (errors_of([rows[name] for name in names[k]]) for k in (PORTABLE, BOTH))
        low, high = interval_of_mean((mine - both).mean(0))
        lines.append(
            [
                f"{target:.0%}",
                f"{min(shares):.3f} to {max(shares):.3f}",
                by_set(mine),
                by_set(both),
                f"{mine.mean() / both.mean():.2f}",
                f"{(mine - both).mean():+.4f} <sub>{low:+.4f} to {high:+.4f}</sub>",
                drawn_worse(rows, names[PORTABLE], names[BOTH]),
                by_set(errors_of([rows[off]])) if (off := f"off: {target:.0%}") in rows else "",
            ]
        )
    head = [
        "target",
        "parameters left",
        f"`{PORTABLE}`: error by set",
        f"{BOTH}: error by set",
        "ratio",
        "difference",
        f"drawn worse than by {BOTH}",
        "`off`",
    ]
    return grid(head, lines)


def by_set(errors: np.ndarray) -> str:
    """The mean error of each set, and the worst prompt; errors: (sets, prompts)."""
    means = ", ".join(f"{value:.4f}" for value in errors.mean(1))
    return f"{means} <sub>worst {largest(errors.mean(0))}</sub>"
