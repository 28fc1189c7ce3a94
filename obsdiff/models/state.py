"""The state of a pipeline's models before a run: that in which from_pretrained opens them.

Compiled models and wrappers ignore hooks that are set afterwards. Offloaded models hold no weights
that could be changed. Caches skip blocks, and fused projections leave the layers of the table idle.
Each of these is refused by one line with the call to make.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..errors import UserError
from .offload_hooks import GROUP_HOOK, accelerate_hooks, diffusers_hooks, group_hook

WRAPPERS = {  # class name -> the attribute that holds the model inside
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
}
OPEN_AGAIN = "open the pipeline again with from_pretrained"
PLAIN_HOOKS = (  # of diffusers: no block is skipped
    *("layerwise_casting", "peft_autocast_disable", GROUP_HOOK),
    *("layer_execution_tracker", "lazy_prefetch_group_offloading"),
)


def require_ready(pipe: Any, component: str) -> None:
    """Refuse a pipeline whose models cannot be pruned, or saved, in the state they are in.

    Args:
        pipe: a diffusers pipeline.
        component: the name of the denoiser to prune.

    Raises:
        UserError: the denoiser is wrapped, compiled, offloaded, sharded, cached or fused, or the
            weights of another model are not in memory.
    """
    for name, part in pipe.components.items():
        if not isinstance(part, nn.Module):
            continue
        checks = DENOISER_CHECKS if name == component else (on_disk, *SAVED_CHECKS)
        for path, module in part.named_modules():
            if name != component and not isinstance(part, ModelMixin):
                checks = (on_disk,)  # transformers saves what it has offloaded
            for check in checks:
                if reason := check(f"pipe.{name}", module):
                    at = f" at {path}" if path else ""
                    raise UserError(
                        f"{name}: expected a model as from_pretrained opens it, found {reason[0]}"
                        f"{at}; {reason[1]}"
                    )


Reason = tuple[str, str] | None  # what was found, and what to do


def wrapped(model: str, module: nn.Module) -> Reason:
    """Find a wrapper around a model, or around a part of it."""
    for cls in type(module).__mro__:
        if cls.__name__ in WRAPPERS:
            inside = f"{model} = {model}.{WRAPPERS[cls.__name__]}"
            kind = "a model compiled by torch.compile" if "Optimized" in cls.__name__ else "it"
            return f"{kind} in the wrapper {cls.__name__}", f"call {inside} first"
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript module", f"{OPEN_AGAIN}, prune, then script the result"
    return None


def compiled(model: str, module: nn.Module) -> Reason:
    """Find a compiled call: hooks that are set after its compilation never run."""
    forward = vars(module).get("forward")
    if getattr(module, "_compiled_call_impl", None) is None and not hasattr(
        forward, "_torchdynamo_orig_callable"
    ):
        return None
    return "a compiled module", f"{OPEN_AGAIN}, prune, then compile the result"


def offloaded(model: str, module: nn.Module) -> Reason:
    """Find weights that are elsewhere while the model does not run."""
    if group_setting(module, "stream"):
        return "group offloading with a stream", f"{OPEN_AGAIN}, prune, then offload the result"
    if any(getattr(hook, "offload", False) for hook in accelerate_hooks(module)):
        return (
            "offloaded weights (accelerate's cpu_offload, or a device_map)",
            f"call accelerate.hooks.remove_hook_from_submodules({model}), or {OPEN_AGAIN} "
            "without offload and device_map",
        )
    return None


def on_disk(model: str, module: nn.Module) -> Reason:
    """Find group offloading to disk: the weights in memory have no values."""
    if group_setting(module, "offload_to_disk_path"):
        return "group offloading to disk", f"{OPEN_AGAIN}, prune, then offload the result"
    return None


def group_setting(module: nn.Module, name: str) -> Any:
    """Return a setting of diffusers' group offloading on a module; None without either."""
    return getattr(getattr(group_hook(module), "config", None), name, None)


def without_weights(model: str, module: nn.Module) -> Reason:
    """Find parameters on the meta device."""
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    if any(tensor.is_meta for tensor in own):
        return "weights on the meta device, offloaded or never loaded", f"{OPEN_AGAIN} in memory"
    return None


def sharded(model: str, module: nn.Module) -> Reason:
    """Find parameters of which each process has a part."""
    if any(type(p).__name__ == "DTensor" for p in module.parameters(recurse=False)):
        return "weights sharded over processes", f"{OPEN_AGAIN} in every process"
    return None


def frozen(model: str, module: nn.Module) -> Reason:
    """Find parameters that nothing outside torch.inference_mode may change."""
    if any(p.is_inference() for p in module.parameters(recurse=False)):
        return "weights made inside torch.inference_mode", f"{OPEN_AGAIN} outside of it"
    return None


def caching(model: str, module: nn.Module) -> Reason:
    """Find hooks of diffusers that skip or split the work of some calls."""
    found = [name for name in diffusers_hooks(module) if name not in PLAIN_HOOKS]
    if not found:
        return None
    return f"diffusers' hook {found[0]}, which may skip layers", f"call {model}.disable_cache()"


def fused(model: str, module: nn.Module) -> Reason:
    """Find fused projections: the layers that they replace are not called."""
    processor = getattr(module, "processor", None)
    in_module = getattr(module, "fused_projections", False) and hasattr(
        module, "unfuse_projections"
    )
    if not in_module and "Fused" not in type(processor).__name__:
        return None
    return "fused projections", f"call {model}.unfuse_qkv_projections() first"


Check = Callable[[str, nn.Module], Reason]
SAVED_CHECKS: tuple[Check, ...] = (without_weights,)
DENOISER_CHECKS: tuple[Check, ...] = (
    *(wrapped, compiled, offloaded, on_disk, without_weights, sharded, frozen),
    *(caching, fused),
)
