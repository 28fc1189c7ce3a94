"""The table of fewer blocks: parameters and operations left, errors, CLIP score."""

from statistics import mean

from ..tables.markdown import grid
from .depth import ALONE, COUNTS, DEPTH, MACS, NARROW, PLAIN, SEEDS, TOGETHER, left, name_of
from .grids import PLACES, SHOWN
from .prompt_errors import WORST, Kept, drawn_worse, errors_of, largest, worst_prompt
from .table_texts import interval_of_mean

COSTS = ("parameters", "macs")
BASES = {DEPTH: PLAIN, NARROW: PLAIN, TOGETHER: ALONE}  # the base line of a way, if it has one


def depth_table(rows: dict[str, Kept]) -> str:
    """A line a way: what is left, error by calibration set, its mean and interval."""
    lines = []
    for way, (names, base, bases) in ways_of().items():
        there = [name for name in names if name in rows]
        if not there:
            continue
        mine = [rows[name] for name in there]
        errors = errors_of(mine)
        low, high = interval_of_mean(errors.mean(0))
        worse = drawn_worse(rows, names, bases)
        lines.append(
            [
                way,
                *(f"{mean(left(rows, name, what) for name in there):.2f}" for what in COSTS),
                ", ".join(f"{value:.2f}" for value in errors.mean(1)),
                f"{errors.mean():.3f} <sub>{low:.3f} to {high:.3f}</sub>",
                largest(errors.mean(0)),
                f"{worse} <sub>than by {base}</sub>" if worse else "",
                f"{mean(row['held_out'][SHOWN[0]]['value'] for row in mine):.3f}",
                worst_prompt(mine, "held_out"),
                f"{mean(row['metrics']['clip_score']['value'] for row in mine):.1f}",
            ]
        )
    head = ["parameters", "MACs", "error by set", "mean", WORST, "drawn worse"]
    clip = rows["dense"]["metrics"]["clip_score"]["value"]
    held_out = [f"mean{PLACES['held_out']}", WORST]
    return grid(["", *head, *held_out, f"CLIP score; dense {clip:.1f}"], lines)


def ways_of() -> dict[str, tuple[list[str], str, list[str]]]:
    """The ways as the table names them: their rows, their base line and its rows."""
    found = {}
    for count in COUNTS:
        names = {
            way: [name_of(way, count, seed) for seed in SEEDS] for way in (PLAIN, DEPTH, NARROW)
        }
        for way in names:
            base = BASES.get(way, way)
            label = f"{count} {'block' if count == 1 else 'blocks'}: {way}"
            found[label] = (names[way], base, names[base])
    for macs in MACS.values():
        for way in (TOGETHER, ALONE):
            label, base = (each.format(macs) for each in (way, BASES.get(way, way)))
            names, bases = ([f"{each}, seed {seed}" for seed in SEEDS] for each in (label, base))
            found[label] = (names, base, bases)
    return found
