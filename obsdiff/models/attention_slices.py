"""Attention slicing of a pruned model, whose attentions have different numbers of heads.

diffusers halves each number of heads for the size of its slices, and refuses a size that any
attention is too small for. Half of one head would be no size, and a size that fits the dense model
would be too large for an attention that lost heads.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from torch import nn

METHOD = "set_attention_slice"


def sliced(base: type) -> dict[str, Callable[..., Any]]:
    """Return the slicing method for a pruned class; empty if the dense class has none."""
    method = getattr(base, METHOD, None)
    return {METHOD: fitting(method)} if method else {}


def fitting(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method with sizes that every attention has: from 1 to its number of heads."""

    @wraps(method)
    def slice_(self: nn.Module, slice_size: Any = "auto") -> Any:
        if slice_size == "auto":
            slice_size = [max(1, heads // 2) for heads in head_counts(self)]
        elif isinstance(slice_size, int):
            slice_size = [min(slice_size, heads) for heads in head_counts(self)]
        return method(self, slice_size)

    return slice_


def head_counts(model: nn.Module) -> list[int]:
    """Return the heads of every attention that can be sliced, in the order of the modules."""
    found = [module for module in model.modules() if hasattr(module, METHOD)]
    return [cast(int, module.sliceable_head_dim) for module in found if module is not model]
