"""What a result was computed on: results of other devices or precisions are not the same."""

import contextlib
from collections.abc import Iterator

import torch

from .precision import product_precision


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Describe what a model computes on.

    Args:
        device: the device.
        dtype: the number format of the model's weights.

    Returns:
        {"device": its name, "format": the number format, "float32_products": "ieee", "tf32" or
        "bf16"}, on a GPU with the version of "cuda" or "hip".
    """
    found = {
        "device": device_name(device),
        "format": str(dtype).removeprefix("torch."),
        "float32_products": product_precision(device.type),
    }
    toolkits = {"cuda": torch.version.cuda, "hip": torch.version.hip}
    if device.type == "cuda":
        found |= {name: version for name, version in toolkits.items() if version}
    return found


def device_name(device: torch.device) -> str:
    """Return the product name of an accelerator, or the kind of the device, such as "cpu"."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).get_device_name(device)
    return device.type


def synchronise() -> None:
    """Block until the accelerator, if there is one, has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def empty_cache() -> None:
    """Give the memory of deleted tensors back to the accelerator, for other processes."""
    for kind in ("cuda", "mps", "xpu"):
        module = getattr(torch, kind)
        if module.is_available():
            module.empty_cache()


@contextlib.contextmanager
def device_watched(found: dict[str, int]) -> Iterator[None]:
    """Measure the peak memory of this process on its CUDA device inside.

    Args:
        found: gets "device_peak_bytes", what torch has allocated at most; nothing without CUDA.
    """
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        found["device_peak_bytes"] = torch.cuda.max_memory_allocated()
