"""Ours: weights rounded to few bits, alone and after pruning, nearest and by GPTQ, and with a
correction of low rank beside; three sets of calibration prompts and noises."""

import torch

from obsdiff import PruningConfig
from obsdiff.pipelines.low_bits import SCALE_BYTES, grids_of

from .lab import Lab
from .rows import Row, Rows, row_of

SEEDS = (0, 1, 2)
GROUP = 64
PATTERNS: dict[str, Row] = {
    "dense": {"sparsity": 0},
    "2:4": {"method": "alps", "pattern": "2:4"},
    "structured 30%": {"pattern": "structured", "sparsity": 0.3, "round_to": GROUP},
}
WAYS: dict[str, Row] = {
    "int8 nearest": {"bits": 8, "rounding": "nearest"},
    "int8": {"bits": 8},
    "int4 nearest": {"bits": 4, "rounding": "nearest"},
    "int4": {"bits": 4},
    "int4 + 5%": {"bits": 4, "low_rank": 0.05},
}
VARIANTS: dict[str, Row] = {
    **{f"dense + {way}": PATTERNS["dense"] | WAYS[way] for way in WAYS},
    "2:4": PATTERNS["2:4"],
    **{f"2:4 + {way}": PATTERNS["2:4"] | WAYS[way] for way in ("int4 nearest", "int4")},
    "structured 30%": PATTERNS["structured 30%"],
    **{
        f"structured 30% + {way}": PATTERNS["structured 30%"] | WAYS[way]
        for way in ("int8", "int4 nearest", "int4")
    },
}


def bits(lab: Lab, rows: Rows) -> None:
    """Measure every variant with every calibration set."""
    for seed in SEEDS:
        for name, settings in VARIANTS.items():
            config = PruningConfig(seed=seed, **settings)
            rows.keep(
                f"{name}, seed {seed}",
                lambda config=config, seed=seed: rounded_row(lab, config, seed),
            )


def rounded_row(lab: Lab, config: PruningConfig, seed: int) -> Row:
    """Prune and round with shared Hessians, draw, measure; with the bytes that would be stored."""
    denoiser, layers, groups, seconds = lab.pruned(config, lab.hessians(seed=seed))
    row = row_of(lab, config, denoiser, layers, groups)
    return row | {"solve_seconds": seconds, "stored_bytes": stored_bytes(denoiser)}


def stored_bytes(denoiser: torch.nn.Module) -> int:
    """Bytes of a denoiser's weights in half precision, rounded ones as torchao stores them."""
    total = 2 * sum(p.numel() for p in denoiser.parameters())
    for name, grid in grids_of(denoiser).items():
        scales = grid.scale.numel() * SCALE_BYTES[grid.bits]
        total += scales - denoiser.get_submodule(name).weight.numel()
    return total
