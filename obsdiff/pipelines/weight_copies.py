"""A group-offloaded model whose gradients are right: it computes with copies of its weights.

diffusers' group offloading brings the data of a parameter to the device for a forward, and takes it
away at the end. Autograd saves the parameter itself, so its backward kernels would find the data on
the CPU; and a part of a group that is computed again by itself brings nothing. Here the hooks move
nothing. Each part of the model has copies of its weights on the device while its forward runs. What
autograd saves are the copies, and each is freed with the last operator that needs it. The
parameters themselves stay where they rest.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..models.offload_hooks import group_hooks
from .run import replaced

Slot = tuple[dict[str, Any], str, Tensor]  # a module's table of tensors, a name in it, its tensor


@contextlib.contextmanager
def copied_weights(model: nn.Module, parts: Sequence[nn.Module]) -> Iterator[None]:
    """Let the parts of a group-offloaded model compute with copies of their weights.

    Args:
        model: the model; one without group offloading is left alone.
        parts: parts of it that are on the device in turn; the weights of no part are there during
            the whole call.
    """
    groups = [hook.group for hook in group_hooks(model)]
    with contextlib.ExitStack() as undo:
        for group in groups:
            for move in ("onload_", "offload_"):
                undo.enter_context(replaced(group, move, lambda: None))
        for module in (model, *parts) if groups else ():
            apart = () if module in parts else parts
            forward = partial(with_copies, module, apart, groups[0].onload_device, module.forward)
            undo.enter_context(replaced(module, "forward", forward))
        yield


def with_copies(
    module: nn.Module,
    apart: Sequence[nn.Module],
    device: torch.device,
    forward: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call a module's forward with copies of its weights, and put its own back."""
    slots, copies = slots_of(module, apart), dict[int, Tensor]()
    try:
        for table, name, own in slots:
            if id(own) not in copies:
                copies[id(own)] = copy_of(own, device)
            table[name] = copies[id(own)]
        return forward(*args, **kwargs)
    finally:
        for table, name, own in slots:
            table[name] = own


def copy_of(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without gradients."""
    return tensor.detach().to(device)


def slots_of(module: nn.Module, apart: Sequence[nn.Module]) -> list[Slot]:
    """Return where the weights and buffers of a module are, without those of some parts."""
    others = {inner for part in apart for inner in part.modules()}
    return [
        (table, name, tensor)
        for inner in module.modules()
        if inner not in others
        for table in (inner._parameters, inner._buffers)
        for name, tensor in table.items()
        if tensor is not None
    ]
