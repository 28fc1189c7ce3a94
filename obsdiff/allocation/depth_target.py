"""What blocks save of a target: parameters, multiply-accumulates or bytes of the denoiser."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ..calibration.depth_selection import DepthSelection
from ..config import PruningConfig
from .budget import Budget
from .savings import amount_of, macs_of_modules, size_of


def block_budget(
    selection: DepthSelection, denoiser: nn.Module, config: PruningConfig, inputs: Mapping[str, Any]
) -> Budget:
    """Return the budget that a config's target sets, with the saving of each block.

    Args:
        selection: the blocks that may leave.
        denoiser: the dense model, which may be on the meta device.
        config: the settings, with a target.
        inputs: the arguments of one call, for operations.

    Raises:
        UserError: all blocks that may leave together save less, or operations can't be counted.
    """
    assert config.budget is not None
    unit, target = config.budget
    dense = amount_of(unit, denoiser, inputs)
    savings = of_each_block(unit, denoiser, selection.candidates, inputs)
    rows = {name: [0.0, amount] for name, amount in savings.items()}
    found = Budget(unit, target, dense, 0.0, rows)
    wanting = at_budget(selection, found)
    if wanting.most() < wanting.wanted:
        raise found.out_of_reach(1 - wanting.most() / found.dense)
    return replace(found, sparsity=wanting.count / selection.total)


def at_budget(selection: DepthSelection, budget: Budget) -> DepthSelection:
    """Return a selection whose blocks leave until they save what a budget wants."""
    savings = {name: budget.savings[name][-1] for name in selection.candidates}
    return replace(selection, savings=savings, wanted=budget.wanted)


def of_each_block(
    unit: str, denoiser: nn.Module, names: list[str], inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Return the parameters, bytes or multiply-accumulates of each of some blocks, by name.

    Args:
        unit: parameters, bytes or macs.
        denoiser: the dense model.
        names: the blocks.
        inputs: the arguments of one call, for macs.
    """
    if unit != "macs":
        return {name: float(size_of(unit, [denoiser.get_submodule(name)])) for name in names}
    macs = macs_of_modules(denoiser, inputs)
    return {name: float(sum(macs.get(name, (0, 0)))) for name in names}
