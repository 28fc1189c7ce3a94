"""SHA-256 of tensors and models, to recognise equal ones."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def model_hashes(pipe: Any) -> dict[str, str]:
    """Return the SHA-256 of the weights and buffers of every component, by the component's name."""
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return {
        name: tensors_hash(sorted(module.state_dict().items())) for name, module in modules.items()
    }


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return one SHA-256 of the names, dtypes, shapes and bytes of tensors.

    Args:
        tensors: (name, tensor) pairs; their order counts. Tensors on other devices are copied.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        if tensor.numel():
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
