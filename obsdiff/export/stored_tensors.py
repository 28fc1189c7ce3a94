"""The tensors of one component as its files store them, by the names of today's diffusers."""

import contextlib
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..models.own_names import MODULE
from ..pipelines.headers import Tensors, read_header
from ..pipelines.rounded_files import CODES, SCALE, ZERO_POINT, is_weight

# names in VAEs that older versions of diffusers saved
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
COMPUTED = "embeddings.position_ids"  # stored by older versions of transformers


class StoredTensors:
    """The tensors of a component, read one by one. Codes and scales are one tensor, a weight.

    Attributes:
        shapes: shape of each tensor but the markers, by the name of today's diffusers.
        bits: bits of each rounded weight, by that name.
    """

    def __init__(self, tensors: Tensors, opened: contextlib.ExitStack) -> None:
        """Open the files.

        Args:
            tensors: the component's headers.
            opened: keeps the files open.
        """
        self.stored = {
            present(name): name
            for name in tensors.shapes
            if not name.endswith(COMPUTED) and not name.startswith(MODULE + ".") and is_weight(name)
        }
        self.shapes = {name: tensors.shapes[stored] for name, stored in self.stored.items()}
        self.bits = {
            name: 4 if beside(stored, ZERO_POINT) in tensors.shapes else 8
            for name, stored in self.stored.items()
            if stored.endswith(f".{CODES}")
        }
        self.homes: dict[str, Any] = {}
        for file in tensors.files:
            handle = opened.enter_context(safe_open(file, framework="pt"))
            self.homes |= dict.fromkeys(names_in(file), handle)

    def read(self, name: str) -> Tensor:
        """Return a tensor by the name of today's diffusers; of a rounded weight the values."""
        found = self.get(self.stored[name])
        return found.float() * self.steps(name) if name in self.bits else found

    def steps(self, name: str) -> Tensor:
        """Return the scale of each weight of a tensor, in float32; 0 where it is not rounded."""
        shape = self.shapes[name]
        if name not in self.bits:
            return torch.zeros(shape)
        scale = self.get(beside(self.stored[name], SCALE)).float()
        return scale.repeat_interleave(shape[1] // scale.shape[1], 1)

    def get(self, stored: str) -> Tensor:
        """Return a tensor by its name in the files."""
        found: Tensor = self.homes[stored].get_tensor(stored)
        return found


def present(name: str) -> str:
    """Return the name that today's diffusers gives a stored tensor.

    Codes are the weight, and the tensors of an older VAE have new names.
    """
    if name.endswith(f".{CODES}"):
        return beside(name, "weight")
    older = re.fullmatch(r"(.+\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
    return f"{older[1]}{OLDER[older[2]]}{older[3]}" if older else name


def beside(name: str, part: str) -> str:
    """Return the name of another tensor of the same layer."""
    return f"{name.rpartition('.')[0]}.{part}"


def names_in(file: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file."""
    return list(read_header(file))
