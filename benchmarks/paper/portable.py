"""Ours: what `portable` costs, FFN neurons alone in multiples of 256, against heads and neurons at
the same number of parameters, and against whole attentions and FFNs switched off; three sets of
calibration prompts and noises.

`portable` leaves fewer parameters than its target, since its widths are coarse: the others get the
number that it reached.
"""

import contextlib
from collections.abc import Callable

from obsdiff import PruningConfig, dense_pass
from obsdiff.calibration.gather import DensePass

from .lab import Lab
from .off import off_row
from .rows import Row, Rows, dense_row, live_row

SEEDS = (0, 1, 2)
TARGETS = (0.95, 0.9)  # largest shares of the parameters; emoji-unet reaches 0.86
PROMPTS = {"emoji-sd3": 32, "emoji-unet": 100}  # calibration prompts
PORTABLE, BOTH = "portable", "heads and neurons"


def portable(lab: Lab, rows: Rows) -> None:
    """Measure portable, then the others at its number of parameters, with every calibration set."""
    rows.keep("dense", lambda: dense_row(lab))
    for seed in SEEDS:
        shared = lab.settings | {"num_prompts": PROMPTS[lab.model], "seed": seed}
        keep_all(
            lab,
            rows,
            {
                name_of(PORTABLE, target, seed): PruningConfig(
                    preset="portable", target_parameters=target, **shared
                )
                for target in TARGETS
            },
        )
        keep_all(
            lab,
            rows,
            {
                name_of(BOTH, target, seed): PruningConfig(
                    preset="best",
                    pattern="structured",
                    target_parameters=left(rows.rows, name_of(PORTABLE, target, seed)),
                    **shared,
                )
                for target in TARGETS
            },
        )
    for target in TARGETS:
        share = left(rows.rows, name_of(PORTABLE, target, SEEDS[0]))
        least = (1 - share) * rows.rows["dense"]["cost"]["parameters"]
        rows.keep(f"off: {target:.0%}", lambda least=least: off_row(lab, least))


def keep_all(
    lab: Lab,
    rows: Rows,
    configs: dict[str, PruningConfig],
    measure: Callable[[Lab, PruningConfig, DensePass | None], Row] = live_row,
) -> None:
    """Measure the rows of some configs that lack, from one dense pass."""
    missing = {name: config for name, config in configs.items() if rows.wants(name)}
    with contextlib.ExitStack() as stack:
        dense = (
            stack.enter_context(dense_pass(lab.pipe, lab.calibration, list(missing.values())))
            if missing
            else None
        )
        for name, config in missing.items():
            rows.keep(name, lambda config=config: measure(lab, config, dense))


def name_of(kind: str, target: float, seed: int) -> str:
    """Return the name of a row."""
    return f"{kind}: {target:.0%}, seed {seed}"


def left(rows: dict[str, Row], name: str) -> float:
    """Return the share of the denoiser's parameters that a row has left."""
    dense, row = (rows[key]["cost"]["parameters"] for key in ("dense", name))
    return float(row / dense)
