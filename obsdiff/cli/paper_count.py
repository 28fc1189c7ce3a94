"""Parameters and "TFLOPs" as the OBS-Diff paper prints them, to compare with its tables 3, 4, 9.

One forward for one picture of 1024 x 1024 with 77 text tokens; the matrix products inside attention
are not counted.

    SD3, SD3.5  multiply-accumulates of the linear layers and of the patch embedding's convolution
    SDXL        floating-point operations as calflops and DeepSpeed's profiler count them: 2 for
                each multiply-accumulate, 1 for each output of a convolution with bias, 5 for each
                input of a norm with weights, 1 for each element of an activation

The paper does not state how it counts. These conventions give its printed digits, except the last
digit of two cells (SD3.5-large at 25 and 30 %).

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
    https://arxiv.org/abs/2510.06751
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from torch import nn

from ..errors import UserError
from ..models.meta_device import example_inputs, macs_or_why_not
from ..pipelines.run import hooked

PAPER_SIDE, TEXT_TOKENS = 1024, 77
NORM = 5  # operations for each element


def paper_count(model: nn.Module, pixels_per_latent: int) -> dict[str, float]:
    """Count a model on the meta device.

    Args:
        model: the denoiser.
        pixels_per_latent: along a side.

    Returns:
        parameters_billions and teraflops.

    Raises:
        UserError: the paper does not count such a model, or it can't be run at that size.
    """
    side = PAPER_SIDE // pixels_per_latent
    inputs = example_inputs(model, side, side, TEXT_TOKENS)
    parameters = sum(p.numel() for p in model.parameters())
    if inputs is None:
        raise UserError(
            "paper-count: expected an SD3, SDXL or FLUX model, as the paper counts; "
            f"found {type(model).__name__}"
        )
    extras: list[int] = []
    with hooked(m.register_forward_hook(counting_norms(extras)) for m in model.modules()):
        counted = macs_or_why_not(model, inputs)
    if counted["total"] is None:
        raise UserError(
            f"paper-count: the paper counts at {PAPER_SIDE} x {PAPER_SIDE}, "
            f"and {counted['why_not']}"
        )
    layers = counted["linear"] + counted["convolution"]
    operations = 2 * layers + sum(extras) if "UNet" in type(model).__name__ else layers
    return {"parameters_billions": parameters / 1e9, "teraflops": operations / 1e12}


def counting_norms(extras: list[int]) -> Callable[..., None]:
    """Return a forward hook that appends a module's operations beside multiply-accumulates."""

    def hook(module: nn.Module, args: tuple[Any, ...], out: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            extras.append(out.numel())
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            extras.append(NORM * out.numel())
        elif isinstance(module, nn.SiLU | GEGLU):
            extras.append(out.numel())

    return hook
