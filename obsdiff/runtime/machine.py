"""What a result was computed on: results of other devices or precisions are not the same."""

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
