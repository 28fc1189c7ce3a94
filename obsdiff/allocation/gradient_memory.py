"""The memory of allocation sensitivity beside weights and changes, counted on the meta device."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import psutil
import torch
from torch import nn

from ..config import PruningConfig
from ..models.activation_memory import activation_bytes, fused_call
from ..models.linear_view import layer_at
from ..models.structure import Block
from ..pipelines.differentiable import checkpointed_parts, checkpointing
from ..pipelines.run import replaced
from ..runtime.device_memory import free_bytes
from ..runtime.launcher import local_processes
from .probes import Probes, probed

STORED = 1 / 4  # of the free memory, for activations that are not computed again


def activation_room(config: PruningConfig, device: torch.device) -> float:
    """Return the bytes that stored activations may take; none under a memory budget.

    Args:
        config: the settings.
        device: where the denoiser computes.
    """
    if config.memory_budget_gib is not None:
        return 0.0
    if device.type == "cpu":
        return STORED * psutil.virtual_memory().available / local_processes()
    memory = free_bytes(device)
    return STORED * memory[0] if memory else 0.0


def gradient_bytes(
    model: nn.Module,
    arguments: Mapping[str, Any],
    blocks: Sequence[Block],
    images: int = 1,
    fused: bool = True,
) -> int:
    """Count what one call holds at most with its backward pass, checkpointed by block.

    Args:
        model: the denoiser on the meta device.
        arguments: the keyword arguments of a call for one image.
        blocks: its blocks.
        images: guidance halves of a picture.
        fused: whether attention is one kernel.

    Returns:
        Bytes.
    """
    layers = [layer for block in blocks for layer in block.layers]
    changes = {layer: torch.empty_like(layer_at(model, layer).weight) for layer in layers}
    model.requires_grad_(False)
    with contextlib.ExitStack() as undo:
        for module in (model, *checkpointed_parts(model, [block.name for block in blocks])):
            if fused:  # in a checkpoint, too, that is computed again
                undo.enter_context(replaced(module, "forward", partial(fused_call, module.forward)))
            undo.enter_context(checkpointing(module))
        undo.enter_context(probed(model, Probes(changes, lambda: 0)))
        return activation_bytes(model, arguments, images, False, True, changes.values())
