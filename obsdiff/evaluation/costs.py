"""What a pipeline costs: parameters, zeros, bytes, multiply-accumulates, and measured seconds against the dense one."""

from typing import Any

import torch
from torch import nn

from ..models.meta_device import build_on_meta, macs_or_why_not
from ..pipelines.headers import Tensors
from ..pipelines.run import denoiser_call
from ..runtime.timing import compared, interleaved

STEPS_PER_PICTURE = 4  # so many timed denoiser steps for every timed picture


def cost_on_disk(stored: Tensors) -> dict[str, int]:
    """Parameters and zeros of a stored component, and bytes of its weights on disk."""
    from safetensors import safe_open

    parameters = zeros = 0
    for file in stored.files:
        with safe_open(file, "pt") as tensors:
            for name in (
                stored.shapes.keys() & tensors.keys()
            ):  # a single file holds other components, too
                tensor = tensors.get_tensor(name)
                parameters += tensor.numel()
                zeros += int((tensor == 0).sum())
    return {"parameters": parameters, "zeros": zeros, "bytes_on_disk": stored.size}


def step_macs(denoiser: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Multiply-accumulates of one denoiser call with these arguments, by kind, counted on a copy without weights; see
    macs_or_why_not."""
    return macs_or_why_not(
        build_on_meta(dict(denoiser.config) | {"_class_name": type(denoiser).__name__}), inputs
    )


def measure_speed(
    dense: Any, pruned: Any, component: str, prompt: str, settings: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """One denoiser step and one whole picture, dense and pruned interleaved: {"step", "picture"}, see timing.compared. A step is
    one denoiser call for one picture, both guidance halves."""
    pipes = {"dense": dense, "pruned": pruned}
    denoisers = {name: getattr(pipe, component) for name, pipe in pipes.items()}
    inputs = {
        name: denoiser_call(pipe, denoisers[name], prompt, settings) for name, pipe in pipes.items()
    }
    steps = {name: lambda name=name: denoisers[name](**inputs[name]) for name in pipes}
    pictures = {
        name: lambda pipe=pipe: draw_one(pipe, prompt, settings) for name, pipe in pipes.items()
    }
    return {
        "step": compared(
            interleaved(steps, STEPS_PER_PICTURE * rounds, warmup=2), "pruned", "dense"
        ),
        "picture": compared(interleaved(pictures, rounds), "pruned", "dense"),
    }


def draw_one(pipe: Any, prompt: str, settings: dict[str, Any]) -> Any:
    return pipe(prompt=prompt, generator=torch.Generator(pipe.device).manual_seed(0), **settings)
