"""Refuse adapters and quantised weights where they do not fit pruning.

Pruning requires plain weights: require_plain refuses a model with adapters or quantised weights. A
pruned model has fewer heads and neurons than adapters made for the dense one expect: those are
refused before anything is loaded. diffusers itself would keep the model half wrapped if a LoRA does
not fit, and would read the wider keys of an IP-Adapter as more tokens without an error.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ConfigMixin
from diffusers.loaders import SD3LoraLoaderMixin
from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor, nn

from ..errors import UserError
from .discovery import find_blocks
from .layout import layout_of, target_of
from .linear_view import layer_shapes
from .structure import Shape

UNQUANTISED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FUSE_PIPELINE = (
    "load the LoRA into the dense pipeline, call pipe.fuse_lora(); pipe.unload_lora_weights(), "
    "then prune"
)


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


def pruned_shapes(model: nn.Module) -> dict[str, Shape]:
    """List the layers that a pruned model's layout made smaller, with or without adapters.

    Args:
        model: a model of a pruned class.

    Returns:
        Layer name -> (O, I), the shape of its weight as a matrix.
    """
    layout = layout_of(model)
    shapes = layer_shapes(without_weights(model), target_of(layout))
    groups = [group for block in find_blocks(shapes) for group in block.groups]
    pruned = [group for group in groups if group.kind in layout.get(group.owner, {})]
    return {name: shapes[name] for g in pruned for name in (*g.producers, *g.consumers)}


def without_weights(model: nn.Module) -> nn.Module:
    """Return a model of the same class and config, without adapters and without weights."""
    cls, config = type(model), model.config
    assert issubclass(cls, ConfigMixin)
    assert isinstance(config, dict)
    with init_empty_weights():
        bare = cls.from_config(config)
    assert isinstance(bare, nn.Module)  # from_config is typed for all kinds of configs
    return bare


def require_lora_fits(
    model: nn.Module,
    pretrained_model_name_or_path_or_dict: Any,
    prefix: str | None = "transformer",
    *_: Any,
    **kwargs: Any,
) -> None:
    """Refuse a LoRA made for other shapes than those of a pruned model.

    Args:
        model: a model of a pruned class.
        pretrained_model_name_or_path_or_dict: a file, a hub id or a state dict, as in diffusers'
            load_lora_adapter.
        prefix: the first part of the state dict's names.
        kwargs: other arguments of load_lora_adapter.

    Raises:
        UserError: names the first layer that does not fit, and both shapes.
    """
    found = pretrained_model_name_or_path_or_dict
    if not isinstance(found, Mapping):
        found = SD3LoraLoaderMixin.lora_state_dict(found, **kwargs | {"use_safetensors": True})
    start = f"{prefix}." if prefix else ""
    found = {name.removeprefix(start): w for name, w in found.items() if name.startswith(start)}
    if not any(".lora_A" in name for name in found):
        found = convert_unet_state_dict_to_peft(found)
    for layer, shape in pruned_shapes(model).items():
        down, up = found.get(f"{layer}.lora_A.weight"), found.get(f"{layer}.lora_B.weight")
        if down is None or up is None:
            continue
        expected = (len(up), down[0].numel())
        if expected != shape:
            raise UserError(
                f"LoRA: {layer} of this {type(model).__name__} has shape {shape}, found a LoRA for "
                f"{expected}, made for other shapes; {FUSE_PIPELINE}"
            )


def require_all_heads(model: nn.Module, *_: Any, **__: Any) -> None:
    """Refuse a model without some of its heads.

    An IP-Adapter or Custom Diffusion contains keys and values of all heads.

    Args:
        model: a model of a pruned class.

    Raises:
        UserError: names the first attention with fewer heads.
    """
    for owner, left in layout_of(model).items():
        if "heads" in left:
            raise UserError(
                "IP-Adapter or attention processors: expected a model with all its heads, but "
                f"{owner} of this {type(model).__name__} has only {left['heads']} left; use them "
                "with the dense pipeline, or prune with target='ffn'"
            )


CHECKS = {  # loading methods of diffusers' models, and the check before each
    "load_lora_adapter": require_lora_fits,
    "load_attn_procs": require_all_heads,
    "_load_ip_adapter_weights": require_all_heads,
}


def guarded(base: type) -> dict[str, Callable[..., Any]]:
    """Wrap the loading methods of a model class.

    Args:
        base: a model class of diffusers.

    Returns:
        Name -> method, for each method of CHECKS that the class has; it runs its check first.
    """
    return {
        name: after(check, getattr(base, name))
        for name, check in CHECKS.items()
        if hasattr(base, name)
    }


def after(check: Callable[..., None], method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that calls `check` with the same arguments first."""

    @wraps(method)
    def checked(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        check(self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return checked
