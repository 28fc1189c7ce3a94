"""Groups of a model ready to be pruned: their numbers of items, and the steps of their removal.

An item is a head, an FFN neuron or a norm group of channels. `round_to` applies to neurons: their
number remains a multiple of it. If it does not divide the width of an FFN, the only steps are none
and the number that uniform pruning removes.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..config import PruningConfig
from ..config.choices import BUDGETS, MOST_ALLOCATED
from ..models.discovery import require_blocks
from ..models.geometry import items, unit_size
from ..models.linear_view import layer_shapes
from ..models.removable import require_prunable
from ..models.structure import Group
from .selection import kept_count, select_groups

CURVE_STEPS = 64  # about the number of steps that would remove all neurons of a group
LEAST_KEPT = 8  # a group keeps at least its number of neurons divided by this


@dataclass(frozen=True)
class PrunableGroup:
    """A group and its numbers of items.

    Attributes:
        group: the group.
        total: items of the dense group.
        each: channels of one item (1 for heads and neurons).
        uniform: items that uniform pruning at the config's sparsity removes.
        step: items that one step removes.
        most: items that may be removed at most.
        movable: whether allocation may choose the number of steps.
    """

    group: Group
    total: int
    each: int
    uniform: int
    step: int
    most: int
    movable: bool

    @classmethod
    def of(cls, denoiser: nn.Module, group: Group, config: PruningConfig) -> "PrunableGroup":
        """Return the numbers of a group as the denoiser is now."""
        total = items(denoiser, group)
        movable = group.kind != "neurons" or total % config.round_to == 0
        if group.kind != "neurons":
            step, most = 1, total - 1
        elif movable:
            step = config.round_to * max(1, total // (CURVE_STEPS * config.round_to))
            most = total - max(step, total // LEAST_KEPT)
        else:
            most = total - kept_count(
                group, total, at_sparsity(config, MOST_ALLOCATED["structured"])
            )
            step = max(1, most)
        uniform = total - kept_count(group, total, config)
        return cls(group, total, unit_size(denoiser, group), uniform, step, most, movable)

    @property
    def name(self) -> str:
        """The group's name."""
        return self.group.name

    @property
    def kept(self) -> int:
        """Items that uniform pruning keeps."""
        return self.total - self.uniform

    def kept_at(self, config: PruningConfig) -> int:
        """Return the items that uniform pruning keeps at the sparsity of another config."""
        return kept_count(self.group, self.total, config)

    def at(self, config: PruningConfig) -> "PrunableGroup":
        """Return the same group at the sparsity of another config."""
        return replace(self, uniform=self.total - self.kept_at(config))


def prunable_groups(denoiser: nn.Module, config: PruningConfig) -> list[PrunableGroup]:
    """Return the groups that the config selects; UserError for one that cannot be pruned.

    Args:
        denoiser: the model.
        config: the settings of a structured pruning.
    """
    shapes = layer_shapes(denoiser, config.target)
    blocks = require_blocks(shapes, type(denoiser).__name__, config.target)
    return counted_groups(denoiser, select_groups(blocks, config), config)


def counted_groups(
    denoiser: nn.Module, groups: list[Group], config: PruningConfig
) -> list[PrunableGroup]:
    """Return groups with their numbers of items; UserError for one that cannot be pruned."""
    require_prunable(denoiser, groups)
    return [PrunableGroup.of(denoiser, group, config) for group in groups]


def at_sparsity(config: PruningConfig, sparsity: float) -> PruningConfig:
    """Return the config with a sparsity in place of its budget or target latency.

    Args:
        config: the settings; unchanged.
        sparsity: the share to remove, at least 0 and below 1.
    """
    no_target: dict[str, Any] = dict.fromkeys(BUDGETS)
    return replace(config, sparsity=sparsity, **no_target)
