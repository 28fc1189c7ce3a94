"""A pipeline's own call with gradients: the final latents as a function of the layers' outputs.

Pipelines forbid gradients by a decorator of their call, which is taken off. The call ends with the
last step of the scheduler, whose result is the final latents, so that nothing is decoded. The
denoiser is checkpointed by call and, inside a call, by block, unless there is room for more
(stored_activations.py): between the steps of the backward pass only latents are stored, and during
one the inputs of its blocks and the activations of one. Of a group-offloaded denoiser the weights
of one block are on the device.
"""

import contextlib
import inspect
from collections.abc import Iterator
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..models.offload_hooks import group_offloaded
from ..models.structure import Block
from .call import Prompt
from .errors_below import one_line_errors
from .refusals import refused
from .run import Run, replaced
from .stored_activations import Activations, OneByOne, weights_of
from .weight_copies import copied_weights


class LastStep(Exception):
    """The scheduler made its last step.

    Args:
        latents: its result, the final latents.
    """

    def __init__(self, latents: Tensor) -> None:
        super().__init__("the scheduler made its last step")
        self.latents = latents


@contextlib.contextmanager
def differentiable(
    run: Run, denoiser: nn.Module, blocks: list[Block], room: float = 0.0, prompts: int = 1
) -> Iterator[Activations]:
    """Let `run.latents` return latents with gradients; restore everything at the end.

    The backward pass has to run inside, too. Parameters get no gradients.

    Args:
        run: the prepared pipeline.
        denoiser: its component with the blocks.
        blocks: the blocks that are checkpointed.
        room: bytes for activations that are stored instead of computed again; ignored for a
            group-offloaded denoiser.
        prompts: prompts that share a call.

    Yields:
        What is checkpointed, decided at the first call.

    Raises:
        OneByOne: several prompts, and no room for all activations; `run.latents` raises it, too.
    """
    room = 0.0 if group_offloaded(denoiser) else room
    activations = Activations(room, lambda: run.steps, weights_of(denoiser), prompts)
    with contextlib.ExitStack() as undo:
        undo.callback(free_offloaded, run.pipe)
        undo.enter_context(frozen(run.pipe))
        parts = checkpointed_parts(denoiser, [block.name for block in blocks])
        undo.enter_context(copied_weights(denoiser, parts))
        for module, call in ((denoiser, activations.call), *((p, activations.part) for p in parts)):
            undo.enter_context(replaced(module, "forward", partial(call, module.forward)))
        undo.enter_context(replaced(run, "draw", partial(call_with_gradients, run)))
        yield activations


def call_with_gradients(
    run: Run, arguments: dict[str, Any], prompts: list[Prompt], seeds: list[int]
) -> tuple[Tensor, ...]:
    """Call the pipeline with gradients up to the last step; return the latents as a tuple."""
    source = run.noise_source(prompts, seeds)
    call = inspect.unwrap(type(run.pipe).__call__)
    with (
        one_line_errors(run.pipe, LastStep, OneByOne),
        refused(run.pipe, lambda: run.step == 0),
        ending_with_last_step(run),
        torch.enable_grad(),
    ):
        try:
            out = call(run.pipe, **arguments | {"generator": source}, return_dict=False)
        except LastStep as end:
            return (end.latents,)
    return out if isinstance(out, tuple) else (out,)


@contextlib.contextmanager
def ending_with_last_step(run: Run) -> Iterator[None]:
    """Raise LastStep inside when the scheduler made its last step."""
    scheduler = getattr(run.pipe, run.scheduler)
    step = scheduler.step

    @wraps(step)
    def ending(*args: Any, **kwargs: Any) -> Any:
        out = step(*args, **kwargs)
        if run.step == run.steps:
            raise LastStep(out[0] if isinstance(out, tuple) else out.prev_sample)
        return out

    with replaced(scheduler, "step", ending):
        yield


def checkpointed_parts(module: nn.Module, blocks: list[str], path: str = "") -> list[nn.Module]:
    """Return the parts of a model that are checkpointed: its blocks and their like.

    Like blocks are the entries of lists of modules that contain no block, such as the residual
    blocks of a UNet.

    Args:
        module: the model, or a part of it.
        blocks: the names of the blocks in the model.
        path: the name of the part in the model.
    """
    found: list[nn.Module] = []
    for name, child in module.named_children():
        inside = f"{path}{name}"
        if inside in blocks:
            found.append(child)
        elif any(block.startswith(f"{inside}.") for block in blocks):
            found += checkpointed_parts(child, blocks, f"{inside}.")
        elif isinstance(module, nn.ModuleList):
            found.append(child)
        elif isinstance(child, nn.ModuleList) or any(
            isinstance(part, nn.ModuleList) for part in child.children()
        ):
            found += checkpointed_parts(child, blocks, f"{inside}.")
    return found


@contextlib.contextmanager
def checkpointing(module: nn.Module) -> Iterator[None]:
    """Let a module compute its activations again in the backward pass instead of storing them."""
    with replaced(module, "forward", partial(checkpoint, module.forward, use_reentrant=False)):
        yield


@contextlib.contextmanager
def frozen(pipe: Any) -> Iterator[None]:
    """Let no parameter of a pipeline require gradients inside."""
    parameters = [
        parameter
        for part in pipe.components.values()
        if isinstance(part, nn.Module)
        for parameter in part.parameters()
        if parameter.requires_grad
    ]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def free_offloaded(pipe: Any) -> None:
    """Move offloaded models back, as a pipeline does at the end of its call."""
    free = getattr(pipe, "maybe_free_model_hooks", None)
    if free:
        free()
