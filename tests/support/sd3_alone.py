"""The denoiser of a tiny SD3 pipeline alone, on the pretend accelerator."""

import torch
from torch import Tensor

from ..conftest import sd3
from .direct import DirectPipeline
from .pretend_gpu import NAME


def arguments() -> dict[str, Tensor]:
    """The arguments of one call of the denoiser, on the device."""
    return {
        "hidden_states": torch.randn(1, 4, 8, 8, device=NAME),
        "encoder_hidden_states": torch.randn(1, 6, 32, device=NAME),
        "pooled_projections": torch.randn(1, 32, device=NAME),
        "timestep": torch.full((1,), 500.0, device=NAME),
    }


def denoiser_alone(blocks: int = 2) -> DirectPipeline:
    """Blocks of SD3 on the device, without text encoders."""
    return DirectPipeline(sd3(blocks).transformer.to(NAME), arguments)
