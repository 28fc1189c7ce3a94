"""Remove heads and neurons from a model by surgery alone, without a calibration."""

from torch import nn

from obsdiff.models.discovery import find_blocks
from obsdiff.models.geometry import items, unit_size
from obsdiff.models.layout import Layout
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.pruned_classes import mark_pruned_
from obsdiff.models.removable import removal_refusal
from obsdiff.models.surgery import shrink_


def cut_(model: nn.Module, *kinds: str, target: str = "linear") -> Layout:
    """Remove the first item of every group of these kinds that can lose one, and mark the model.

    Args:
        model: a dense model of diffusers; becomes one of its pruned class.
        kinds: "heads", "neurons", "channels".
        target: "conv" includes the channels of convolutions.

    Returns:
        The layout, owner -> kind -> what is left.
    """
    layout: Layout = {}
    for block in find_blocks(layer_shapes(model, target)):
        for group in block.groups:
            count = items(model, group) if group.kind in kinds else 1
            if count > 1 and removal_refusal(model, group) is None:
                each = unit_size(model, group)
                shrink_(model, group, list(range(1, count)))
                layout.setdefault(group.owner, {})[group.kind] = (count - 1) * each
    mark_pruned_(model, layout)
    return layout
