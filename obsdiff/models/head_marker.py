"""Mark a model without some of its heads, so that programs that do not know the cut refuse it.

A loader that takes the shapes of linear layers from the file and head counts from constants would
compute another attention from such a file, without an error. The marker is one small tensor under
the name "model.". That is where ComfyUI expects a denoiser inside of a larger file: if there is
such a tensor, its loader reads nothing else, finds no model in it, and stops with its own error.
diffusers reads the marker like any other buffer, and config.json states that it is there.
"""

import torch
from torch import nn

from ..errors import UserError

MODULE = "model"
TENSOR = "heads_removed_open_with_obsdiff"
MARKER_KEY = f"{MODULE}.{TENSOR}"  # its name in the file


class HeadMarker(nn.Module):
    """A module of one buffer and no computation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(TENSOR, torch.zeros(1))


def is_marked(model: nn.Module) -> bool:
    """Return whether a model has the marker."""
    return isinstance(getattr(model, MODULE, None), HeadMarker)


def add_marker_(model: nn.Module) -> None:
    """Add the marker to a model, on the device and in the format of its first parameter.

    Args:
        model: a model of a pruned class; one that has a marker stays as it is.

    Raises:
        UserError: the model has something else under the marker's name.
    """
    if is_marked(model):
        return
    if hasattr(model, MODULE):
        raise UserError(
            f"{type(model).__name__}: expected no attribute {MODULE!r}, which marks removed heads, "
            f"found {type(getattr(model, MODULE)).__name__}; prune with target='ffn'"
        )
    marker, like = HeadMarker(), next(model.parameters())
    if like.device.type != "meta":  # a model without weights gets them, and the marker, later
        marker.to(like.device, like.dtype)
    model.add_module(MODULE, marker)
