"""Where the weights of a pipeline rest while it runs, and which of them are on the device.

    none    all components are on the device
    model   one component at a time: a text encoder, then the denoiser; the others wait on the CPU
    group   one block of the denoiser at a time, and one text encoder

Text is encoded once, before the denoiser first runs (text_first.py), so encoders and denoiser are
on the device one after the other. What was pruned stays in the one copy of the weights that there
is: neither mode keeps a second one.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.hooks import HookRegistry
from torch import nn

from ..config import PruningConfig
from ..config.choices import OFFLOADS
from ..errors import UserError
from ..models.offload_hooks import GROUP_HOOK, accelerate_hooks, group_offloaded


@contextlib.contextmanager
def placed(pipe: Any, component: str, config: PruningConfig) -> Iterator[None]:
    """Place a pipeline for a run; an offload ends with the run.

    Args:
        pipe: a diffusers pipeline.
        component: name of the denoiser.
        config: its device computes (None: that of the pipeline), by its offload. Without an
            offload the pipeline stays on the device.

    Raises:
        UserError: the pipeline cannot be offloaded, or not from that device.
    """
    offload = config.offload or OFFLOADS[0]
    if offload == OFFLOADS[0]:
        if config.device:
            pipe.to(config.device)
        yield
        return
    device = torch.device(config.device) if config.device else pipe.device
    require_offloadable(pipe, device)
    before = pipe.device
    with contextlib.ExitStack() as undo:
        undo.callback(return_to, pipe, before)
        if offload == "group":
            undo.enter_context(blocks_in_turn(pipe, component, device))
        else:
            undo.enter_context(components_in_turn(pipe, device))
        yield


def require_offloadable(pipe: Any, device: torch.device) -> None:
    """Raise UserError for a device that has nothing to spare, or a pipeline with its own hooks."""
    if device.type == "cpu":
        raise UserError("offload: expected an accelerator as the device, found cpu")
    if is_offloaded(pipe):
        raise UserError(
            f"offload: this {type(pipe).__name__} is offloaded already; "
            "leave the setting out, or open the pipeline again with from_pretrained"
        )


def is_offloaded(pipe: Any) -> bool:
    """Return whether components of a pipeline move to their device when they run."""
    return any(
        group_offloaded(part) or any(any(accelerate_hooks(module)) for module in part.modules())
        for part in models_of(pipe).values()
    )


def models_of(pipe: Any) -> dict[str, nn.Module]:
    """Return the components that have weights, by their names."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


@contextlib.contextmanager
def components_in_turn(pipe: Any, device: torch.device) -> Iterator[None]:
    """Move each component to the device when it runs, and the one before it away."""
    try:
        pipe.enable_model_cpu_offload(device=device)
    except ValueError as error:
        raise UserError(f"offload: {type(pipe).__name__} cannot be offloaded: {error}") from None
    try:
        yield
    finally:
        pipe.remove_all_hooks()


@contextlib.contextmanager
def blocks_in_turn(pipe: Any, component: str, device: torch.device) -> Iterator[None]:
    """Move each block of the denoiser to the device when it runs, and other components likewise."""
    from accelerate import cpu_offload_with_hook
    from accelerate.hooks import remove_hook_from_module

    pipe.to("cpu")
    models, last = models_of(pipe), None
    denoiser: Any = models.pop(component)
    denoiser.enable_group_offload(
        onload_device=device, offload_device=torch.device("cpu"), num_blocks_per_group=1
    )
    for model in models.values():
        _, last = cpu_offload_with_hook(model, device, prev_module_hook=last)
    try:
        yield
    finally:
        HookRegistry.check_if_exists_or_initialize(denoiser).remove_hook(GROUP_HOOK, recurse=True)
        for model in models.values():
            remove_hook_from_module(model, recurse=True)


def return_to(pipe: Any, device: torch.device) -> None:
    """Put all components of a pipeline on one device, with their own forward alone."""
    pipe.to(device)
    for part in models_of(pipe).values():
        for module in part.modules():
            own: Any = vars(module).get("forward")
            if getattr(own, "__func__", None) is type(module).forward:
                del module.forward
