"""What a pipeline costs: parameters, zeros, bytes, multiply-accumulates, and measured seconds against the dense one."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from .drawing import denoiser_call
from .meta import build_on_meta, forward_macs
from .timing import compared, interleaved

STEPS_PER_PICTURE = 4  # so many timed denoiser steps for every timed picture


def cost_on_disk(folder: Path, component: str) -> dict[str, int]:
    """Parameters and zeros of a saved component, and bytes of its weights on disk."""
    from safetensors import safe_open

    files = sorted((folder / component).glob("*.safetensors"))
    parameters = zeros = 0
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                tensor = tensors.get_tensor(name)
                parameters += tensor.numel()
                zeros += int((tensor == 0).sum())
    return {"parameters": parameters, "zeros": zeros, "bytes_on_disk": sum(f.stat().st_size for f in files)}


def step_macs(denoiser: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Multiply-accumulates of one denoiser call with these arguments, by kind; counted on a copy without weights. A model that
    can't be run without data has `why_not` instead."""
    try:
        model = build_on_meta(dict(denoiser.config) | {"_class_name": type(denoiser).__name__})
        return forward_macs(model, inputs).to_dict() | {"why_not": None}
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        return {"total": None, "why_not": f"{type(denoiser).__name__} can't be counted on the meta device: {reason}"}


def measure_speed(dense: Any, pruned: Any, component: str, prompt: str, settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """One denoiser step and one whole picture, dense and pruned interleaved: {"step", "picture"}, see timing.compared. A step is
    one denoiser call for one picture, both guidance halves."""
    pipes = {"dense": dense, "pruned": pruned}
    denoisers = {name: getattr(pipe, component) for name, pipe in pipes.items()}
    inputs = {name: denoiser_call(pipe, denoisers[name], prompt, settings) for name, pipe in pipes.items()}
    steps = {name: lambda name=name: denoisers[name](**inputs[name]) for name in pipes}
    pictures = {name: lambda pipe=pipe: picture(pipe, prompt, settings) for name, pipe in pipes.items()}
    return {
        "step": compared(interleaved(steps, STEPS_PER_PICTURE * rounds, warmup=2), "pruned", "dense"),
        "picture": compared(interleaved(pictures, rounds), "pruned", "dense"),
    }


def picture(pipe: Any, prompt: str, settings: dict[str, Any]) -> Any:
    return pipe(prompt=prompt, generator=torch.Generator(pipe.device).manual_seed(0), **settings)


def what_left(record: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Heads and neurons that left, and how many there were in the pruned blocks, apart; {} for a run that is not structured."""
    found: dict[str, dict[str, int]] = {}
    for group in record.get("groups", []):
        row = found.setdefault(group["kind"], {"removed": 0, "total": 0})
        row["removed"] += group["total"] - group["kept"]
        row["total"] += group["total"]
    return found
