"""The table of fewer blocks: parameters and operations left, errors, CLIP score."""

from statistics import mean

from ..tables.markdown import grid
from .depth import ALONE, COUNTS, DEPTH, MACS, NARROW, PLAIN, SEEDS, TOGETHER, left, name_of
from .grids import PLACES, SHOWN, Kept
from .preset_texts import errors_of
from .table_texts import interval_of_mean

COSTS = ("parameters", "macs")


def depth_table(rows: dict[str, Kept]) -> str:
    """A line a way: what is left, error by calibration set, its mean and interval."""
    ways = {
        f"{count} {'block' if count == 1 else 'blocks'}: {way}": [
            name_of(way, count, seed) for seed in SEEDS
        ]
        for count in COUNTS
        for way in (PLAIN, DEPTH, NARROW)
    }
    at_macs = [way.format(macs) for macs in MACS.values() for way in (TOGETHER, ALONE)]
    ways |= {way: [f"{way}, seed {seed}" for seed in SEEDS] for way in at_macs}
    lines = []
    for way, names in ways.items():
        there = [name for name in names if name in rows]
        if not there:
            continue
        mine = [rows[name] for name in there]
        errors = errors_of(mine)
        low, high = interval_of_mean(errors.mean(0))
        lines.append(
            [
                way,
                *(f"{mean(left(rows, name, what) for name in there):.2f}" for what in COSTS),
                ", ".join(f"{value:.2f}" for value in errors.mean(1)),
                f"{errors.mean():.3f} <sub>{low:.3f} to {high:.3f}</sub>",
                f"{mean(row['held_out'][SHOWN[0]]['value'] for row in mine):.3f}",
                f"{mean(row['metrics']['clip_score']['value'] for row in mine):.1f}",
            ]
        )
    head = ["parameters", "MACs", "error by set", "mean", f"mean{PLACES['held_out']}", "CLIP score"]
    clip = rows["dense"]["metrics"]["clip_score"]["value"]
    return grid(["", *head[:-1], f"CLIP score; dense {clip:.1f}"], lines)
