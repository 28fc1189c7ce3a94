"""Ours: fewer blocks, with the repair and without, against narrower ones of as many parameters or
operations; three sets of calibration prompts and noises."""

import copy
from typing import Any

from torch import nn

from obsdiff import PruningConfig
from obsdiff.models.depth import left_blocks, remove_blocks_, stacks_of

from .lab import Lab
from .portable import PROMPTS
from .rows import Row, Rows, dense_row, figures_row, live

SEEDS = (0, 1, 2)
COUNTS = (1, 2)  # blocks that leave
WIDTH: Row = {"preset": "best", "pattern": "structured"}
# the share of depth and width together: less than one block leaves; a UNet's convolutions stay
MACS = {"emoji-sd3": 0.6, "emoji-unet": 0.85}
DEPTH, PLAIN, NARROW = "fewer blocks, repaired", "fewer blocks", "narrower, same parameters"
ALONE = "narrower to {:.0%} of MACs"
TOGETHER = f"1 block, then {ALONE}"


def depth(lab: Lab, rows: Rows) -> None:
    """Measure every way with every calibration set."""
    rows.keep("dense", lambda: dense_row(lab))
    macs = MACS[lab.model]
    for seed in SEEDS:
        for count in COUNTS:
            shallow = Shallow(lab, count, seed)
            rows.keep(name_of(DEPTH, count, seed), shallow.repaired_row)
            rows.keep(name_of(PLAIN, count, seed), lambda s=shallow: s.plain_row(rows))
            if count == 1:
                rows.keep(name_of(NARROW, count, seed), lambda s=shallow: s.narrow_row(rows))
                rows.keep(f"{TOGETHER.format(macs)}, seed {seed}", shallow.together_row)
        alone = f"{ALONE.format(macs)}, seed {seed}"
        rows.keep(alone, lambda seed=seed: width_row(lab, seed, target_macs=macs))


class Shallow:
    """A number of blocks out of a model, with one calibration set."""

    def __init__(self, lab: Lab, count: int, seed: int) -> None:
        self.lab, self.count, self.seed = lab, count, seed
        self.stacks = stacks_of(lab.dense)
        total = sum(len(blocks) for blocks in left_blocks(lab.dense, self.stacks, ()).values())
        self.config = PruningConfig(
            pattern="depth", sparsity=(count + 0.5) / total, **shared(lab, seed)
        )

    def repaired(self) -> tuple[nn.Module, Any]:
        """The model without the blocks, repaired, and the report."""
        return live(self.lab, self.config)

    def repaired_row(self) -> Row:
        """Measure `repaired`, with what left."""
        denoiser, report = self.repaired()
        left = [row["name"] for row in report.depth["removed"]]
        return figures_row(self.lab, denoiser) | {"removed": left, "depth": report.depth}

    def plain_row(self, rows: Rows) -> Row:
        """Measure the same blocks out without repair."""
        removed = rows.rows[name_of(DEPTH, self.count, self.seed)]["removed"]
        denoiser = copy.deepcopy(self.lab.dense)
        remove_blocks_(denoiser, self.stacks, removed)
        return figures_row(self.lab, denoiser)

    def narrow_row(self, rows: Rows) -> Row:
        """Measure heads and neurons instead, at the same number of parameters."""
        share = left(rows.rows, name_of(DEPTH, self.count, self.seed), "parameters")
        return width_row(self.lab, self.seed, target_parameters=share)

    def together_row(self) -> Row:
        """Measure the blocks out and repaired, and heads and neurons of what is left."""
        shallow = self.repaired()[0]
        macs, dense = (self.lab.cost(one)["macs"] for one in (shallow, self.lab.dense))
        target = MACS[self.lab.model] * dense / macs
        return width_row(self.lab, self.seed, shallow, target_macs=target)


def width_row(lab: Lab, seed: int, begin: nn.Module | None = None, **target: float) -> Row:
    """Prune heads and neurons of the dense model, or of another, and measure."""
    config = PruningConfig(**WIDTH, **target, **shared(lab, seed))
    return figures_row(lab, live(lab, config, begin=begin)[0])


def shared(lab: Lab, seed: int) -> Row:
    """The settings of every row of a calibration set."""
    return lab.settings | {"num_prompts": PROMPTS[lab.model], "seed": seed}


def name_of(way: str, count: int, seed: int) -> str:
    """Return the name of a row."""
    return f"{way}: {count}, seed {seed}"


def left(rows: dict[str, Row], name: str, what: str) -> float:
    """Return the share of the dense model's parameters or macs that a row has left."""
    dense, row = (rows[key]["cost"][what] for key in ("dense", name))
    return float(row / dense)
