"""Denoisers of public sizes on a hollow accelerator, and one call of their calibration."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from obsdiff import PruningConfig
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.call_audit import CallAudit
from obsdiff.calibration.hooks import new_inputs, tapped
from obsdiff.calibration.products import ones
from obsdiff.models.activation_memory import batched
from obsdiff.models.meta_device import build_on_meta, example_inputs

from .contexts import context_of
from .device_counts import Counts
from .direct import DirectPipeline
from .hollow import OneKernel
from .pretend_gpu import NAME, PretendTensor, pretend_gpu
from .pretend_offload import group_offloading

PROMPTS, BATCH = 100, 4  # as the defaults of a run


@dataclass(frozen=True)
class Call:
    """A call of a denoiser at 1024 px, in bfloat16.

    Attributes:
        config: the denoiser's config.json.
        latents: the side of the latents.
        text: text tokens.
        halves: guidance halves of a picture.
        steps: denoising steps of a run.
    """

    config: dict[str, Any]
    latents: int = 128
    text: int = 333
    halves: int = 2
    steps: int = 28


@contextlib.contextmanager
def hollow_gpu() -> Iterator[Counts]:
    """A hollow accelerator; no tensor of it stays in a cache of obsdiff."""
    try:
        with pretend_gpu(hollow=True) as counts, group_offloading(), OneKernel():
            ones.cache_clear()
            yield counts
    finally:
        ones.cache_clear()


def count_call(
    call: Call, group: bool = False, hessians_there: bool = True, again: bool = False
) -> Counts:
    """Count one denoiser call of a calibration with the default settings.

    Args:
        call: the call.
        group: whether the blocks come to the device in turn.
        hessians_there: whether Hessians rest on the device; else they do on the host.
        again: count a second call: the first tries what the device can.

    Returns:
        The counts of the call alone, but for memory: weights and Hessians are held.
    """
    model = nn.Module.to(build_on_meta(call.config), torch.bfloat16)
    images = BATCH * call.halves
    one = example_inputs(model, call.latents, call.latents, call.text)
    many = tree_map(lambda value: batched(value, images, torch.bfloat16), one)
    with hollow_gpu() as counts:
        if group:
            places = torch.device(NAME), torch.device("cpu")
            model.enable_group_offload(*places, "block_level", num_blocks_per_group=1)
        else:
            on_device_(model)
        arguments = tree_map(on_device, many)
        pipe = DirectPipeline(model, lambda: arguments, call.steps)
        pipe.device = torch.device(NAME)
        drawn = CalibrationSet(
            [{}] * PROMPTS, list(range(PROMPTS)), {}, BATCH,
            tokens_per_column=PruningConfig().kept_tokens,
        )  # fmt: skip
        with context_of(pipe, drawn) as context, torch.no_grad():
            context.scratch.devices[f"{NAME}:0"] = math.inf if hessians_there else 0.0
            taps = [tap for block in context.blocks for unit in block.units for tap in unit]
            inputs = new_inputs(context, taps, context.scratch)
            context.run.at_call(0, BATCH, 1, call.steps, range(BATCH))
            for _ in range(1 + again):
                counts.clear()
                with tapped(context, inputs, CallAudit()):
                    model(**arguments)
    return counts


def on_device_(model: nn.Module) -> None:
    """Replace the meta tensors of a model by tensors of the device."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(on_device(weight), requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = on_device(buffer)


def on_device(value: Any) -> Any:
    """Return the tensor of the device for a meta tensor."""
    return PretendTensor(value.detach()) if isinstance(value, torch.Tensor) else value
