"""The tables of pruned text encoders: what leaves, and the error of the pictures by method, beside
that with the encoder switched off."""

from ..tables.markdown import grid
from .grids import BASELINE, PLACES, SHOWN, cell, compared, prompts_grid
from .prompt_errors import Kept
from .text_encoders import OFF

METHODS = ("magnitude", "l1", "obs", "alps")


def text_encoders_table(rows: dict[str, Kept]) -> str:
    """A grid for evaluation prompts and one for held-out names; a line an encoder and target."""
    return "\n\n".join(errors_of_encoders(rows, where) for where in PLACES)


def errors_of_encoders(rows: dict[str, Kept], where: str) -> str:
    """The share of parameters that leave, and the error by method, on one set of prompts; under
    it single prompts."""
    targets = dict.fromkeys((row["encoder"], row["target"]) for row in rows.values())
    lines, names_of = [], {}
    for encoder, target in sorted(targets, key=lambda pair: pair[0]):
        if target == OFF:
            continue
        names = [f"{encoder}: {target}, {method}" for method in METHODS]
        switched_off = f"{encoder}: {OFF}, {OFF}"
        names_of[f"`{encoder}`, {target}"] = [*names, switched_off]
        first = next(rows[name] for name in names if name in rows)
        lines.append(
            [
                f"`{encoder}`, {first['parameters'] / 1e6:.2f} M",
                target,
                f"{first['removed'] / first['parameters']:.0%}",
                *compared(rows, names, SHOWN[0], where),
                cell(rows[switched_off][where][SHOWN[0]], SHOWN[0]),
            ]
        )
    head = [f"encoder{PLACES[where]}", "target", "of its parameters", *METHODS, OFF]
    small = prompts_grid(rows, names_of, (*METHODS, OFF), BASELINE, where)
    return grid(head, lines) + f"\n\n{small}"
