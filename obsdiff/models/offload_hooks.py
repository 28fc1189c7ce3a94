"""Hooks by which diffusers and accelerate move weights to a device and away: which a module has."""

from collections.abc import Iterator
from typing import Any

from torch import nn

GROUP_HOOK = "group_offloading"  # diffusers' name of its hook


def diffusers_hooks(module: nn.Module) -> dict[str, Any]:
    """Return the hooks that diffusers has set on a module, by name."""
    registry = getattr(module, "_diffusers_hook", None)
    return dict(getattr(registry, "hooks", {}))


def accelerate_hooks(module: nn.Module) -> Iterator[Any]:
    """Yield the hooks that accelerate has set on a module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield hook
        yield from getattr(hook, "hooks", ())


def group_hook(module: nn.Module) -> Any:
    """Return diffusers' group offloading hook of a module, or None."""
    return diffusers_hooks(module).get(GROUP_HOOK)


def group_hooks(model: nn.Module) -> list[Any]:
    """Return diffusers' group offloading hooks of a model and its parts."""
    found = [group_hook(module) for module in model.modules()]
    return [hook for hook in found if hook is not None]


def group_offloaded(model: nn.Module) -> bool:
    """Return whether a model, or a part of it, is under diffusers' group offloading."""
    return bool(group_hooks(model))
