"""The whole of the plain algorithm: package by package, calibrate, then prune every layer with its
own Hessian.

The lists of layers, packages, heads and neurons come from obsdiff's tables: they describe the
model, not the algorithm.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

from typing import Any

import torch
from torch import nn

from obsdiff import PruningConfig
from obsdiff.calibration.packages import plan_packages
from obsdiff.calibration.selection import select_groups
from obsdiff.models.discovery import require_blocks
from obsdiff.models.geometry import columns, items
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.structure import Group
from obsdiff.models.surgery import shrink_
from obsdiff.pipelines.call import denoiser_name

from .calibrate import gather
from .hessian import RunningHessian
from .solve import solve
from .structured import remove_parts


def prune_plain_(pipe: Any, prompts: list[str], config: PruningConfig) -> None:
    """Prune the denoiser of a pipeline, in place, unstructured, n:m or structured by config;
    steps and guidance from there, too."""
    denoiser = getattr(pipe, denoiser_name(pipe, None))
    shapes = layer_shapes(denoiser)
    blocks = require_blocks(shapes, type(denoiser).__name__)
    groups = select_groups(blocks, config) if config.pattern == "structured" else []
    settings = {
        name: getattr(config, name)
        for name in ("num_inference_steps", "guidance_scale", "height", "width")
    }
    seeds = [config.seed + i for i in range(len(prompts))]
    pipe.set_progress_bar_config(disable=True)
    for package in plan_packages(blocks, shapes, config):
        hessians = gather(pipe, denoiser, list(package.layers), prompts, seeds, settings)
        inside = [group for group in groups if group.consumers[0] in package.layers]
        for group in inside:
            remove_group_(denoiser, group, hessians, config)
        for layer in () if groups else package.layers:
            with torch.no_grad():
                weight = denoiser.get_submodule(layer).weight
                weight.copy_(
                    solve(
                        weight, hessians[layer].matrix, config.removed, config.group, config.damping
                    )
                )


def remove_group_(
    denoiser: nn.Module, group: Group, hessians: dict[str, RunningHessian], config: PruningConfig
) -> None:
    """Remove heads or neurons from the layers that read them, and from the model."""
    total = items(denoiser, group)
    count = min(total - 1, int(config.removed * total + 0.5))
    if group.kind == "neurons":
        count = total - max(
            config.round_to, round((total - count) / config.round_to) * config.round_to
        )
    weights = [denoiser.get_submodule(layer).weight.detach() for layer in group.consumers]
    streams = [
        (weight, hessians[layer].matrix)
        for weight, layer in zip(weights, group.consumers, strict=True)
    ]
    removed, repaired = remove_parts(
        streams,
        list(columns(denoiser, group, total)),
        count,
        group.kind == "heads",
        damping=config.damping,
    )
    for weight, new in zip(weights, repaired, strict=True):
        weight.copy_(new)
    shrink_(denoiser, group, [j for j in range(total) if j not in set(removed)])
