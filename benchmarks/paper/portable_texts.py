"""The table of portable against heads and neurons: parameters, errors, ratio."""

from ..tables.markdown import grid
from .grids import Kept
from .portable import BOTH, PORTABLE, SEEDS, TARGETS, left, name_of
from .preset_texts import error_or_nothing, errors_of
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
                ", ".join(f"{value:.4f}" for value in mine.mean(1)),
                ", ".join(f"{value:.4f}" for value in both.mean(1)),
                f"{mine.mean() / both.mean():.2f}",
                f"{(mine - both).mean():+.4f} <sub>{low:+.4f} to {high:+.4f}</sub>",
                error_or_nothing(rows, f"off: {target:.0%}"),
            ]
        )
    head = [
        "target",
        "parameters left",
        f"`{PORTABLE}`: error by set",
        f"{BOTH}: error by set",
        "ratio",
        "difference",
        "`off`",
    ]
    return grid(head, lines)
