"""Mark a model that other programs would compute wrongly, so that they refuse it.

A loader that takes the shapes of linear layers from the file and head counts from constants would
compute another attention from a file without some heads; one that skips tensors it does not know
would compute without the corrections of low rank, or with random numbers where a file has values
and bits of a weight, or the two factors of a modulation layer. None of it is an error there. The
marker is one small tensor under the name "model.". That is where ComfyUI expects a denoiser inside
of a larger file: if there is such a tensor, its loader reads nothing else, finds no model in it,
and stops with its own error. diffusers reads the marker like any other buffer, and config.json
states that it is there.
"""

import torch
from torch import nn

from ..errors import UserError
from .own_names import BITMASK, FOLDED, HEADS, LOW_RANK, MODULE

MARKER_KEY = f"{MODULE}.{HEADS}"  # the name of that for removed heads in the file


class ClientMarker(nn.Module):
    """A module of one buffer, or one for each reason, and no computation."""


def is_marked(model: nn.Module, reason: str = HEADS) -> bool:
    """Return whether a model has the marker for a reason."""
    marker = getattr(model, MODULE, None)
    return isinstance(marker, ClientMarker) and hasattr(marker, reason)


def add_marker_(model: nn.Module, reason: str = HEADS) -> None:
    """Add the marker to a model, on the device and in the format of its first parameter.

    Args:
        model: a model of a pruned class; one that has the marker stays as it is.
        reason: HEADS, LOW_RANK, BITMASK or FOLDED.

    Raises:
        UserError: the model has something else under the marker's name.
    """
    if is_marked(model, reason):
        return
    marker = getattr(model, MODULE, None)
    if marker is not None and not isinstance(marker, ClientMarker):
        instead = {
            HEADS: "prune with target='ffn'",
            LOW_RANK: "prune without low_rank",
            BITMASK: "leave the folder as it is",
            FOLDED: "prune without modulation",
        }
        raise UserError(
            f"{type(model).__name__}: expected no attribute {MODULE!r}, under which obsdiff keeps "
            f"other programs from the model, found {type(marker).__name__}; {instead[reason]}"
        )
    if marker is None:
        marker = ClientMarker()
        model.add_module(MODULE, marker)
    marker.register_buffer(reason, torch.zeros(1))
    like = next(model.parameters())
    if like.device.type != "meta":  # a model without weights gets them, and the marker, later
        marker.to(like.device, like.dtype)


def remove_marker_(model: nn.Module, reason: str) -> None:
    """Remove the marker for a reason, and its module with the last one."""
    if is_marked(model, reason):
        marker = getattr(model, MODULE)
        delattr(marker, reason)
        if not dict(marker.named_buffers()):
            delattr(model, MODULE)
