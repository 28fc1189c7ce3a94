"""Operators of a pretend accelerator without numbers: shapes alone, so models may have any size.

Tensors of the device are on torch's meta device. What the host reads of them is 1, or 0 for a whole
number, which stands for an error code or a count of something wrong. An operator whose result has a
size that depends on numbers raises an error.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
NAMES = ("query", "key", "value", "attn_mask", "is_causal", "scale")
META = torch.device("meta")


class OneKernel(TorchFunctionMode):
    """Computes attention in one kernel, as GPUs do; torch takes several for an unknown device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs or {})
        given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False))
        given |= {name: value for name, value in (kwargs or {}).items() if name in NAMES}
        return aten._scaled_dot_product_flash_attention_for_cpu(**given)[0]


def computed(func: Any, args: Any, kwargs: Any, there: bool) -> Any:
    """Return an operator's result.

    Args:
        func: the operator.
        args: its arguments; tensors of the device are on the meta device.
        kwargs: the same.
        there: whether the result is asked for on the device.
    """
    packet, device = func.overloadpacket, kwargs.get("device")
    if packet is aten._local_scalar_dense:
        return read(args[0]).item()
    if packet is aten.copy_:
        return args[0]
    if packet is aten.equal:
        return True
    if there:
        kwargs["device"] = META
    elif packet is aten._to_copy and device is not None:
        return read(args[0], kwargs.get("dtype"))
    kwargs.pop("pin_memory", None)
    return func(*tree_map(moved, args), **tree_map(moved, kwargs))


def moved(value: Any) -> Any:
    """Return the meta tensor of a tensor of the host."""
    return value.to(META) if isinstance(value, Tensor) else value


def read(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return what the host reads of a tensor; it takes no memory."""
    dtype = dtype or tensor.dtype
    whole = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
    return torch.full((), 0 if whole else 1, dtype=dtype).expand(tensor.shape)
