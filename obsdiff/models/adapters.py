"""Refuse adapters and quantised weights before pruning, which requires plain weights."""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

UNQUANTISED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_unwrapped(pipe: Any) -> None:
    """Refuse a pipeline with LoRA layers: neither diffusers nor transformers saves it whole.

    Args:
        pipe: a diffusers pipeline.

    Raises:
        UserError: names the component and the first wrapped layer.
    """
    for name, part in pipe.components.items():
        modules = part.named_modules() if isinstance(part, nn.Module) else ()
        wrapped = next((layer for layer, module in modules if hasattr(module, "base_layer")), None)
        if wrapped:
            raise UserError(
                f"{name}: expected plain layers, found an adapter such as a LoRA on {wrapped}; "
                "call pipe.fuse_lora(); pipe.unload_lora_weights() first"
            )


def require_plain(pipe: Any, component: str) -> None:
    """Refuse a pipeline that cannot be pruned because of adapters or quantised weights.

    Args:
        pipe: a diffusers pipeline.
        component: the name of the denoiser to prune.

    Raises:
        UserError: LoRA layers in any model of the pipeline, or an IP-Adapter or quantised weights
            in the denoiser.
    """
    require_unwrapped(pipe)
    denoiser = getattr(pipe, component)
    for name, processor in getattr(denoiser, "attn_processors", {}).items():
        if isinstance(processor, nn.Module) and any(True for _ in processor.parameters()):
            raise UserError(
                f"{component}: expected plain attention, found {type(processor).__name__} at "
                f"{name}; call unload_ip_adapter() first: an IP-Adapter fits a pruned model only "
                "if it has all its heads"
            )
    require_unquantised(denoiser, component)


def require_unquantised(denoiser: nn.Module, component: str) -> None:
    """Refuse a parameter that is not a plain tensor in half, single or double precision."""
    for name, p in denoiser.named_parameters():
        if type(p.data) is not Tensor or p.dtype not in UNQUANTISED_DTYPES:
            kind = type(p.data).__name__ if type(p.data) is not Tensor else str(p.dtype)
            raise UserError(
                f"{component}: expected plain floating-point weights, found {kind} in {name}; "
                "prune the unquantised pipeline, then quantise the result"
            )
