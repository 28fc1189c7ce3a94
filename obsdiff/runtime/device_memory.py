"""The memory of accelerators."""

from typing import Any

import torch


def exact(device: torch.device | str) -> torch.device:
    """Return a device with its number: "cuda" is the current one of several."""
    return torch.empty(0, device=device).device


def free_bytes(device: torch.device) -> tuple[int, int] | None:
    """Return the free bytes of an accelerator and all of its bytes.

    What torch holds for deleted tensors is free.

    Args:
        device: the accelerator.

    Returns:
        None if torch can't tell.
    """
    if device.type == "mps":
        most = torch.mps.recommended_max_memory()
        return most - torch.mps.driver_allocated_memory(), most
    module: Any = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return None
    free, most = module.mem_get_info(device)
    if hasattr(module, "memory_reserved"):
        free += module.memory_reserved(device) - module.memory_allocated(device)
    return free, most
