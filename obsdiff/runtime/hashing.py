"""SHA-256 of what goes into a run and of what comes out: to know it again."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def model_hashes(pipe: Any) -> dict[str, str]:
    """SHA-256 of every component's weights and buffers."""
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return {
        name: tensors_hash(sorted(module.state_dict().items())) for name, module in modules.items()
    }


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of tensors' names, formats, shapes and bytes."""
    found = hashlib.sha256()
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        if tensor.numel():
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
