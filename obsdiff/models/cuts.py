"""Which rows and columns of the dense model's layers a pruned model kept.

A weight made for a dense layer, such as a LoRA's, becomes one for the pruned layer by taking them.

O outputs, I inputs of the dense layer; K and J those that are left.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .dense_shapes import dense_on_meta
from .discovery import find_blocks
from .geometry import columns, items, kept_rows, unit_size
from .kept_items import kept_by
from .layout import layout_of, target_of
from .linear_view import layer_at, layer_shapes
from .structure import Group, Shape
from .surgery import kept_columns, shrink_


@dataclass
class Cut:
    """What is left of a dense layer.

    Attributes:
        shape: (O, I) of the dense layer.
        rows: indices (K,) of the outputs that are left.
        columns: indices (J,) of the inputs that are left, of its weight as a matrix.
        known: whether the folder states which are left; otherwise only K and J are right.
    """

    shape: Shape
    rows: Tensor
    columns: Tensor
    known: bool = True

    @property
    def left(self) -> Shape:
        """The shape (K, J) of the pruned layer."""
        return len(self.rows), len(self.columns)


def cuts_of(model: nn.Module) -> dict[str, Cut]:
    """Return the cut of every layer that a pruned model's layout names.

    Args:
        model: a model of a pruned class, with or without adapters.

    Returns:
        Layer name -> its cut.
    """
    layout = layout_of(model)
    dense = dense_on_meta(model)
    shapes = layer_shapes(dense, target_of(layout))
    groups = [group for block in find_blocks(shapes) for group in block.groups]
    cuts: dict[str, Cut] = {}
    for group in groups:
        if group.kind in layout.get(group.owner, {}):
            for name in (*group.producers, *group.consumers):
                rows, inputs = (torch.arange(size, device="cpu") for size in shapes[name])
                cuts.setdefault(name, Cut(shapes[name], rows, inputs))
            left = layout[group.owner][group.kind] // unit_size(dense, group)
            kept = kept_by(model.get_submodule(group.owner)).get(group.kind)
            cut_group_(dense, cuts, group, kept or list(range(left)), known=kept is not None)
    return cuts


def cut_group_(
    dense: nn.Module, cuts: dict[str, Cut], group: Group, kept: list[int], known: bool
) -> None:
    """Take a group's removed items out of the cuts of its layers, and of the model.

    Args:
        dense: the model, shrunk by the groups before.
        cuts: of all layers of the group.
        group: the group.
        kept: its items that are left.
        known: whether these are the ones, not only as many.
    """
    count = items(dense, group)
    index, reads = torch.as_tensor(kept, device="cpu"), columns(dense, group, count)
    for name in group.producers:
        take = kept_rows(dense, group, name, count, index)
        cuts[name].rows = cuts[name].rows[take]
    for name in group.consumers:
        take = kept_columns(layer_at(dense, name), reads, index)
        cuts[name].columns = cuts[name].columns[take]
    for name in (*group.producers, *group.consumers):
        cuts[name].known &= known
    shrink_(dense, group, kept)
