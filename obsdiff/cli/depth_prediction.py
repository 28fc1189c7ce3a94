"""The sizes after blocks have left, from config.json alone.

Which blocks leave is measured by a run. Blocks of one size make one prediction; else those that
save the least are taken, and the prediction says that a run can leave no more. The blocks with the
fewest parameters need not be those with the fewest operations: each is counted without its own.
With a target of parameters or operations it is a model that meets it by little.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..allocation.depth_target import at_budget, block_budget, of_each_block
from ..calibration.depth_selection import DepthSelection, select_depth
from ..config import PruningConfig
from ..errors import UserError
from ..models.call_shapes import CallArguments
from ..models.depth import changed_settings
from ..models.discovery import require_blocks
from ..models.linear_view import layer_shapes
from ..models.meta_device import build_on_meta, example_inputs, macs_or_why_not
from .prediction import count


@dataclass(frozen=True)
class Shallower:
    """A model on the meta device without some of its blocks."""

    model: nn.Module  # the one with the most parameters
    slowest: nn.Module  # the one with the most operations
    removed: int  # blocks that left
    total: int
    at_most: bool  # whether a run can leave less: blocks differ, and there is no target

    def count(self, inputs: CallArguments | None) -> dict[str, Any]:
        """Return the most parameters and MACs that are left; the argument is that of `count`."""
        found = count(self.model, inputs)
        same = self.slowest is self.model
        return found if same else found | {"macs": count(self.slowest, inputs)["macs"]}


def selection_of(
    dense: nn.Module, inputs: CallArguments | None, config: PruningConfig
) -> DepthSelection:
    """Return the blocks of a model that may leave, and what they have to save.

    Args:
        dense: the denoiser on the meta device.
        inputs: the arguments of one forward, None if they are not known.
        config: the settings of the pruning.

    Raises:
        UserError: blocks of this model can't leave, or not as many, or its operations can't be
            counted.
    """
    cls = type(dense).__name__
    found = select_depth(cls, require_blocks(layer_shapes(dense), cls), config)
    if config.budget is None:
        return found
    if inputs is None and config.target_macs is not None:
        raise UserError(
            f"target_macs: the arguments of {cls} are not known here; use target_parameters"
        )
    return at_budget(found, block_budget(found, dense, config, inputs or {}))


def shallower(
    dense: nn.Module,
    model_config: Mapping[str, Any],
    config: PruningConfig,
    inputs: CallArguments | None,
) -> Shallower:
    """Return the largest model that a run of pattern depth can leave; with a target about that.

    Args:
        dense: the denoiser on the meta device.
        model_config: its config.json.
        config: the settings of the pruning.
        inputs: the arguments of one forward, None if they are not known.

    Raises:
        UserError: blocks of this model can't leave, or not as many.
    """
    selection = selection_of(dense, inputs, config)
    own: Any = dense.config
    sizes = of_each_block("parameters", dense, selection.candidates, {})
    macs = sizes if config.budget else block_macs(dense, selection, inputs) or sizes
    away, slow = smallest(selection, sizes), smallest(selection, macs)

    def without(names: list[str]) -> nn.Module:
        changes = changed_settings(own, selection.stacks, names)
        return build_on_meta({**model_config, **changes})

    model = without(away)
    slowest = model if slow == away else without(slow)
    differ = any(len(set(each.values())) > 1 for each in (sizes, macs))
    at_most = differ and config.budget is None
    return Shallower(model, slowest, len(away), selection.total, at_most)


def predict_depth(
    model_config: Mapping[str, Any],
    config: PruningConfig,
    latents: tuple[int, int],
    text_tokens: int,
    frames: int = 1,
) -> dict[str, Any]:
    """Count parameters and MACs of one forward for one picture, dense and with fewer blocks.

    Args:
        model_config: the denoiser's config.json.
        config: the settings of the pruning.
        latents: height and width of the latents.
        text_tokens: text tokens of a prompt; 0 without text.
        frames: frames of the latents.

    Returns:
        As `predict` returns it, and `at_most`: whether a run can leave less than `pruned`.

    Raises:
        UserError: blocks of this model can't leave, or not as many.
    """
    dense = build_on_meta(model_config)
    inputs = example_inputs(dense, *latents, text_tokens, frames)
    found = shallower(dense, model_config, config, inputs)
    return {
        "dense": count(dense, inputs),
        "pruned": found.count(inputs),
        "blocks": {"removed": found.removed, "total": found.total},
        "at_most": found.at_most,
        "latents": list(latents),
        "text_tokens": text_tokens,
    }


def block_macs(
    dense: nn.Module, selection: DepthSelection, inputs: CallArguments | None
) -> dict[str, float]:
    """Return the multiply-accumulates of each block that may leave; none if they can't be counted.

    Args:
        dense: the denoiser on the meta device.
        selection: the blocks that may leave.
        inputs: the arguments of one forward, None if they are not known.
    """
    if inputs is None or macs_or_why_not(dense, inputs)["total"] is None:
        return {}
    return of_each_block("macs", dense, selection.candidates, inputs)


def smallest(selection: DepthSelection, sizes: Mapping[str, float]) -> list[str]:
    """Return the smallest blocks that may leave together and save enough, none too many."""
    away: list[str] = []
    for name in sorted(sizes, key=lambda name: (selection.savings[name], sizes[name])):
        if not selection.enough(away) and selection.allowed([*away, name]):
            away.append(name)
    for name in away[::-1]:
        rest = [other for other in away if other != name]
        if selection.enough(rest):
            away = rest
    return away
