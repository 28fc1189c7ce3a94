"""Seconds of a denoising step on this machine, measured with the stored denoiser alone."""

from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import Any

import torch

from ..models.call_shapes import CallArguments
from ..pipelines.folder import Folder
from ..pipelines.load import load_denoiser
from ..runtime.timing import interleaved
from .call_settings import pipeline_class
from .device_memory import UNCOUNTED
from .guidance import step_passes

ROUNDS = 3


def measured_step(
    folder: Folder, component: str, inputs: CallArguments | None, settings: dict[str, Any]
) -> float | None:
    """Time a denoising step of one prompt; None if the denoiser can't run by itself.

    Args:
        folder: the model, with weights.
        component: name of the denoiser.
        inputs: the arguments of one forward for one picture, on the meta device.
        settings: the settings of the pipeline's call.
    """
    if inputs is None:
        return None
    halves = step_passes(pipeline_class(folder), folder, component, settings["guidance_scale"])
    model = load_denoiser(folder, component)
    first = next(model.parameters())
    call = filled(inputs, first.device, first.dtype)
    try:
        with torch.no_grad():
            seconds = interleaved({"step": partial(model, **call)}, ROUNDS)["step"]
    except UNCOUNTED:
        return None
    return halves * median(seconds)


def filled(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return (nested) arguments with random numbers in place of meta tensors."""
    if isinstance(value, torch.Tensor):
        return torch.rand(value.shape, device=device, dtype=dtype)
    if isinstance(value, Mapping):
        return {name: filled(one, device, dtype) for name, one in value.items()}
    return value
