"""The table of the preset small: bytes, parameters, operations, time, error, CLIP score."""

from statistics import mean

from ..tables.markdown import grid
from .prompt_errors import WORST, Kept, drawn_worse, errors_of, largest
from .small import BEST, DENSE, FFN, SEEDS, SMALL, TORCHAO, UNFOLDED, time_of
from .table_texts import interval_of_mean


def small_table(rows: dict[str, Kept]) -> str:
    """A line a way, the smallest on disk last."""
    dense = rows[DENSE]
    found = [[DENSE, *cost_cells(dense, dense), "1.00", "", "", "", "", clip([dense])]]
    ways = {name: [name] for name in TORCHAO}
    pruned = [*BEST, *SMALL, *UNFOLDED, FFN]
    ways |= {name: [f"{name}, seed {seed}" for seed in SEEDS] for name in pruned}
    there = {
        name: [rows[key] for key in keys]
        for name, keys in ways.items()
        if all(key in rows for key in keys)
    }
    for name, mine in sorted(there.items(), key=lambda item: -item[1][0]["stored_bytes"]):
        errors = errors_of(mine)
        low, high = interval_of_mean(errors.mean(0))
        found.append(
            [
                name,
                *cost_cells(mine[0], dense),
                f"{1 / rows[time_of(name)]['speedup']:.2f}" if time_of(name) in rows else "",
                f"{errors.mean():.5f} <sub>{low:.5f} to {high:.5f}</sub>",
                ", ".join(f"{value:.5f}" for value in errors.mean(1)),
                largest(errors.mean(0)),
                drawn_worse(rows, ways[name], TORCHAO[:1] * len(mine)),
                clip(mine),
            ]
        )
    head = ["on disk", "of dense", "parameters", "MACs", "time of a step", "error", "by set"]
    head += [WORST, "drawn worse than by int8"]
    return grid(["", *head, "CLIP score"], found)


def cost_cells(row: Kept, dense: Kept) -> list[str]:
    """Bytes in MB and as a share, parameters and operations as shares of dense."""
    cost, whole = row["cost"], dense["cost"]
    return [
        f"{row['stored_bytes'] / 1e6:.1f} MB",
        f"{row['stored_bytes'] / dense['stored_bytes']:.2f}",
        f"{cost['parameters'] / whole['parameters']:.2f}",
        f"{cost['macs'] / whole['macs']:.2f}",
    ]


def clip(rows: list[Kept]) -> str:
    """The CLIP score, mean over calibration sets."""
    return f"{mean(row['metrics']['clip_score']['value'] for row in rows):.2f}"
