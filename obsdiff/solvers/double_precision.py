"""float64 on every machine: Apple's devices have none, so it is computed on the CPU for them."""

import torch
from torch import Tensor


def has(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a device computes in a dtype."""
    try:
        torch.empty(0, dtype=dtype, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def where_double(tensor: Tensor) -> Tensor:
    """Return a tensor on a device that has float64: itself, or its copy on the CPU."""
    return tensor if has(tensor.device, torch.float64) else tensor.cpu()
