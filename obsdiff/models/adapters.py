"""What hangs on a model besides its own weights: adapters made for it, and quantised weights.

Pruning wants plain weights, so require_plain refuses a model that something still hangs on. A pruned model has fewer heads
and neurons than adapters made for the dense one expect: those are refused before anything is loaded. diffusers itself leaves
the model half wrapped when a LoRA does not fit, and reads an IP-Adapter's wider keys as more tokens without an error.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders import SD3LoraLoaderMixin
from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor, nn

from ..errors import UserError
from .discovery import find_blocks
from .linear_view import layer_shapes
from .surgery import target_of

UNQUANTISED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FUSE_PIPELINE = "load the LoRA into the dense pipeline, call pipe.fuse_lora(); pipe.unload_lora_weights(), then prune"


def require_unwrapped(pipe: Any) -> None:
    """UserError if LoRA layers hang on any model of the pipeline: neither diffusers nor transformers saves such a model whole."""
    for name, part in pipe.components.items():
        wrapped = (
            next((layer for layer, m in part.named_modules() if hasattr(m, "base_layer")), None)
            if isinstance(part, nn.Module)
            else None
        )
        if wrapped:
            raise UserError(
                f"{name}: expected plain layers, found an adapter such as a LoRA on {wrapped}; call pipe.fuse_lora(); pipe.unload_lora_weights() first"
            )


def require_plain(pipe: Any, component: str) -> None:
    """UserError if LoRA layers hang on any model of the pipeline, or an IP-Adapter or quantised weights on the component to prune."""
    require_unwrapped(pipe)
    denoiser = getattr(pipe, component)
    for name, processor in getattr(denoiser, "attn_processors", {}).items():
        if isinstance(processor, nn.Module) and any(True for _ in processor.parameters()):
            raise UserError(
                f"{component}: expected plain attention, found {type(processor).__name__} at {name}; call unload_ip_adapter() first: "
                "an IP-Adapter fits a pruned model only if no heads are taken out"
            )
    require_unquantised(denoiser, component)


def require_unquantised(denoiser: nn.Module, component: str) -> None:
    """UserError for a parameter that is not a plain tensor in half, single or double precision."""
    for name, p in denoiser.named_parameters():
        if type(p.data) is not Tensor or p.dtype not in UNQUANTISED_DTYPES:
            kind = type(p.data).__name__ if type(p.data) is not Tensor else str(p.dtype)
            raise UserError(
                f"{component}: expected plain floating-point weights, found {kind} in {name}; prune the unquantised pipeline, then quantise the result"
            )


def pruned_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Name and weight shape, as a matrix, of the layers that a pruned model's layout made smaller, whatever hangs on them now."""
    with init_empty_weights():
        bare = type(model).from_config(model.config)
    shapes = layer_shapes(bare, target_of(model.config.pruned_layout))
    groups = [
        g
        for block in find_blocks(shapes)
        for g in block.groups
        if g.kind in model.config.pruned_layout.get(g.owner, {})
    ]
    return {name: shapes[name] for group in groups for name in (*group.producers, *group.consumers)}


def require_lora_fits(
    model: nn.Module,
    pretrained_model_name_or_path_or_dict: Any,
    prefix: str | None = "transformer",
    *_: Any,
    **kwargs: Any,
) -> None:
    """UserError for a LoRA (a file, a hub id or a state dict, as load_lora_adapter takes them) made for other shapes."""
    found = pretrained_model_name_or_path_or_dict
    if not isinstance(found, Mapping):
        found = SD3LoraLoaderMixin.lora_state_dict(found, **kwargs | {"use_safetensors": True})
    start = f"{prefix}." if prefix else ""
    found = {name.removeprefix(start): w for name, w in found.items() if name.startswith(start)}
    if not any(".lora_A" in name for name in found):
        found = convert_unet_state_dict_to_peft(found)
    for layer, (rows, columns) in pruned_shapes(model).items():
        down, up = found.get(f"{layer}.lora_A.weight"), found.get(f"{layer}.lora_B.weight")
        if down is not None and up is not None and (len(up), down[0].numel()) != (rows, columns):
            raise UserError(
                f"LoRA: {layer} of this {type(model).__name__} has shape ({rows}, {columns}), found a LoRA for ({len(up)}, {down[0].numel()}), "
                f"made for other shapes; {FUSE_PIPELINE}"
            )


def require_all_heads(model: nn.Module, *_: Any, **__: Any) -> None:
    """UserError if heads were taken out: an IP-Adapter or Custom Diffusion brings keys and values for all of them."""
    for owner, left in model.config.pruned_layout.items():
        if "heads" in left:
            raise UserError(
                f"IP-Adapter or attention processors: expected a model with all its heads, but {owner} of this {type(model).__name__} has only "
                f"{left['heads']} left; use them with the dense pipeline, or prune with target='ffn'"
            )


DOORS = {
    "load_lora_adapter": require_lora_fits,
    "load_attn_procs": require_all_heads,
    "_load_ip_adapter_weights": require_all_heads,
}


def guarded(base: type) -> dict[str, Callable]:
    """The loading methods a model class has, each with its check before it."""
    return {
        name: after(check, getattr(base, name))
        for name, check in DOORS.items()
        if hasattr(base, name)
    }


def after(check: Callable, method: Callable) -> Callable:
    @wraps(method)
    def checked(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        check(self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return checked
