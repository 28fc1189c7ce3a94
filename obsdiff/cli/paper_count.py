"""Parameters and "TFLOPs" as the OBS-Diff paper prints them, for comparison with its tables 3, 4 and 9.

One forward for one picture of 1024 x 1024 with 77 text tokens; attention's own matrix products are not in any of them.

    SD3, SD3.5  multiply-accumulates of the linear layers and of the patch embedding's convolution
    SDXL        floating-point operations the way calflops and DeepSpeed's profiler count them: 2 for each multiply-accumulate,
                1 for each output of a convolution with bias, 5 for each element that a norm with weights reads, 1 for each
                element of an activation

The paper does not say how it counts. With these conventions its printed digits come out, but for the last one of two cells (SD3.5-large
at 25 and 30 %).
"""

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from torch import nn

from ..errors import UserError
from ..models.meta_device import example_inputs, macs_or_why_not

PAPER_SIDE, TEXT_TOKENS = 1024, 77
NORM = 5


def paper_count(model: nn.Module, pixels_per_latent: int) -> dict[str, float]:
    """{"parameters_billions", "teraflops"} of a model on the meta device."""
    side = PAPER_SIDE // pixels_per_latent
    inputs = example_inputs(model, side, side, TEXT_TOKENS)
    parameters = sum(p.numel() for p in model.parameters())
    if inputs is None:
        raise UserError(
            f"paper-count: the paper counts SD3, SDXL and FLUX models; found {type(model).__name__}"
        )
    extras: list[int] = []
    handles = [module.register_forward_hook(counting_norms(extras)) for module in model.modules()]
    try:
        counted = macs_or_why_not(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if counted["total"] is None:
        raise UserError(
            f"paper-count: the paper counts at {PAPER_SIDE} x {PAPER_SIDE}, and {counted['why_not']}"
        )
    layers = counted["linear"] + counted["convolution"]
    operations = 2 * layers + sum(extras) if "UNet" in type(model).__name__ else layers
    return {"parameters_billions": parameters / 1e9, "teraflops": operations / 1e12}


def counting_norms(extras: list[int]) -> Any:
    """A forward hook that notes a module's operations beside its multiply-accumulates."""

    def hook(module: nn.Module, args: tuple, out: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            extras.append(out.numel())
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            extras.append(NORM * out.numel())
        elif isinstance(module, nn.SiLU | GEGLU):
            extras.append(out.numel())

    return hook
