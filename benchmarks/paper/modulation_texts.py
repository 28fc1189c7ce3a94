"""The table of folded modulation: ranks, errors of the layers, errors of the pictures."""

from statistics import mean

import numpy as np

from ..tables.markdown import grid
from .grids import SHOWN
from .modulation import COUNTS, OTHERWISE, SEEDS, SHARES, TIME, TIME_PROMPTS, TIME_SHARES, name_of
from .prompt_errors import WORST, Kept, errors_of, largest, share_worse, worst_prompt
from .table_texts import interval_of_mean


def modulation_table(rows: dict[str, Kept]) -> str:
    """A line a share and number of prompts: the mean over calibration sets."""
    ways = {
        ("the time step alone", share): [name_of(TIME, TIME_PROMPTS, share, SEEDS[0])]
        for share in TIME_SHARES
    } | {
        (f"pooled text, {count} prompts", share): [name_of("", count, share, s) for s in SEEDS]
        for count in COUNTS
        for share in SHARES
    }
    lines = []
    for (reads, share), names in ways.items():
        mine = [rows[name] for name in names if name in rows]
        if not mine:
            continue
        errors = errors_of(mine)
        low, high = interval_of_mean(errors.mean(0))
        ranks = sorted({rank for row in mine for rank in row["ranks"]})
        lines.append(
            [
                reads,
                f"{share:.0%}",
                str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}",
                *(of_layers(mine, where) for where in ("fitted", "layers")),
                f"{errors.mean():.5f} <sub>{low:.5f} to {high:.5f}</sub>",
                largest(errors.mean(0)),
                f"{mean(row['held_out'][SHOWN[0]]['value'] for row in mine):.5f}",
                worst_prompt(mine, "held_out"),
            ]
        )
    head = ["reads", "of the weights", "rank", "error of the layers, fitted", "held out"]
    table = grid([*head, "relative latent error", WORST, "held-out names", WORST], lines)
    return table + (f"\n\n{otherwise_table(rows[OTHERWISE])}" if OTHERWISE in rows else "")


def otherwise_table(row: Kept) -> str:
    """One folded model under other schedules than it was calibrated on."""
    figures = row["schedules"]
    first, *_ = figures
    head = f"pooled text, {COUNTS[-1]} prompts, {row['share']:.0%}, held-out names, drawn in"
    cells = (
        f"{f['value']:.5f} <sub>{f['low']:.5f} to {f['high']:.5f}</sub>" for f in figures.values()
    )
    errors = [np.array(f["per_prompt"]) for f in figures.values()]
    lines = [
        ["relative latent error", *cells],
        [WORST, *map(largest, errors)],
        [f"drawn worse than in {first}", "", *(share_worse(e, errors[0]) for e in errors[1:])],
    ]
    return grid([head, *figures], lines)


def of_layers(rows: list[Kept], where: str) -> str:
    """The median and the largest error of the layers, each the mean over calibration sets."""
    return ", ".join(
        f"{mean(row[where][key] for row in rows):.1g}" for key in ("median", "largest")
    )
