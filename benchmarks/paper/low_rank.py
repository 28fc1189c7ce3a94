"""Ours: sparse plus low rank against denser weights of as many parameters; three sets of
calibration prompts and noises. Without a correction `alps` is the best method, with one `obs`."""

from obsdiff import PruningConfig

from .lab import Lab
from .rows import Row, Rows, pruned_row

SEEDS = (0, 1, 2)
BASELINE = "obs 2:4"  # the paper's method, with the same Hessians
VARIANTS: dict[str, Row] = {
    BASELINE: {"method": "obs", "pattern": "2:4"},
    "alps 2:4": {"method": "alps", "pattern": "2:4"},
    "obs 2:4 + 5%": {"method": "obs", "pattern": "2:4", "low_rank": 0.05},
    "obs 2:4 + 10%": {"method": "obs", "pattern": "2:4", "low_rank": 0.1},
    "alps 5:8": {"method": "alps", "pattern": "5:8"},
    "alps 60%": {"method": "alps", "sparsity": 0.6},
    "obs 60% + 10%": {"method": "obs", "sparsity": 0.6, "low_rank": 0.1},
    "alps 50%": {"method": "alps", "sparsity": 0.5},
}


def low_rank(lab: Lab, rows: Rows) -> None:
    """Measure every variant with every calibration set."""
    for seed in SEEDS:
        for name, settings in VARIANTS.items():
            config = PruningConfig(seed=seed, **settings)
            rows.keep(
                f"{name}, seed {seed}",
                lambda config=config, seed=seed: pruned_row(lab, config, seed=seed),
            )
