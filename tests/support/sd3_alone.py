"""The denoiser of a tiny SD3 pipeline alone, on the pretend accelerator."""

from functools import partial

import torch
from torch import Tensor

from ..conftest import sd3
from .direct import DirectPipeline
from .pretend_gpu import NAME


def arguments(dtype: torch.dtype) -> dict[str, Tensor]:
    """The arguments of one call of the denoiser, on the device."""
    found = {
        "hidden_states": torch.randn(1, 4, 8, 8, device=NAME),
        "encoder_hidden_states": torch.randn(1, 6, 32, device=NAME),
        "pooled_projections": torch.randn(1, 32, device=NAME),
        "timestep": torch.full((1,), 500.0, device=NAME),
    }
    return {name: value.to(dtype) for name, value in found.items()}


def denoiser_alone(blocks: int = 2, dtype: torch.dtype = torch.float32) -> DirectPipeline:
    """Blocks of SD3 on the device, without text encoders."""
    return DirectPipeline(sd3(blocks).transformer.to(NAME, dtype), partial(arguments, dtype))
